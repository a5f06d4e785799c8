#!lua name=parley_work_2

--[[
Who takes which turn. A work entry is one unfinished turn; a claim is its pending entry in the group.

  key                              what
  KEYS[1]  work:<role>:<p>         the stream: conversation, turn, cause (`claim` or `handback`)
  KEYS[2]  {work:<role>:<p>}:index the hash from "<conversation> <turn>" to the id of its entry

`offer` is idempotent, for two entries of one turn would be two owners that take its log from each other for
ever. The rest act only for the consumer that holds the claim; they answer 0 to everyone else.
]]

local function present(stream, id)
  return id and #redis.call('XRANGE', stream, id, id) > 0
end

-- The consumer that holds the claim. Without a stream or a group there are no claims: Redis forgot them.
local function holder(stream, group, id)
  local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
  if pending.err then
    if string.find(pending.err, 'NOGROUP', 1, true) then
      return nil
    end
    error(pending.err, 0)
  end
  return pending[1] and pending[1][2]
end

local function add(stream, index, conversation, turn, cause)
  local id = redis.call('XADD', stream, '*', 'conversation', conversation, 'turn', turn, 'cause', cause)
  redis.call('HSET', index, conversation .. ' ' .. turn, id)
  return id
end

-- offer  stream index | conversation turn
local function offer(keys, argv)
  local stream, index, conversation, turn = keys[1], keys[2], argv[1], argv[2]
  local id = redis.call('HGET', index, conversation .. ' ' .. turn)
  if present(stream, id) then
    return { 0, id }
  end
  return { 1, add(stream, index, conversation, turn, 'claim') }
end

-- refresh  stream | group consumer id…      answers the ids that another has, and those that nobody has
local function refresh(keys, argv)
  local stream, group, consumer = keys[1], argv[1], argv[2]
  local lost, gone = {}, {}
  for i = 3, #argv do
    local id = argv[i]
    local has = holder(stream, group, id)
    if has == consumer then
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
    elseif has then
      lost[#lost + 1] = id
    else
      gone[#gone + 1] = id
    end
  end
  return { lost, gone }
end

local function finish(stream, index, group, consumer, id, conversation, turn)
  if holder(stream, group, id) ~= consumer then
    return false
  end
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
  local field = conversation .. ' ' .. turn
  if redis.call('HGET', index, field) == id then
    redis.call('HDEL', index, field)
  end
  return true
end

-- done  stream index | group consumer id conversation turn
local function done(keys, argv)
  return finish(keys[1], keys[2], argv[1], argv[2], argv[3], argv[4], argv[5]) and 1 or 0
end

-- handback  stream index | group consumer id conversation turn
local function handback(keys, argv)
  if not finish(keys[1], keys[2], argv[1], argv[2], argv[3], argv[4], argv[5]) then
    return 0
  end
  -- Offered anew, at the end: that wakes a peer that waits, which a pending entry would not.
  add(keys[1], keys[2], argv[4], argv[5], 'handback')
  return 1
end

-- What frees memory, or keeps a running turn alive, must work at maxmemory too.
local OOM = { 'allow-oom' }

redis.register_function('parley_offer_2', offer)
redis.register_function { function_name = 'parley_refresh_2', callback = refresh, flags = OOM }
redis.register_function { function_name = 'parley_done_2', callback = done, flags = OOM }
redis.register_function { function_name = 'parley_handback_2', callback = handback, flags = OOM }
