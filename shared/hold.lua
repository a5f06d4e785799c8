#!lua name=parley_hold_2

--[[
Who holds a conversation: what an edge session needs to keep it, and what another needs to take it over.

  key                              what
  KEYS[1]  conv:{id}:session       the tag of the session that holds the conversation, a lease
  KEYS[2]  conv:{id}:meta          settings; token, token_old (hashes of resume tokens); edge (who to tell);
                                   turn (the newest, should the logs be lost)
  KEYS[3…] conv:{id}:<log>         the three logs, where their time to live is refreshed

  answer   begin, keep                                           settle, release
  LOST     another session's tag stands there                    the same; nothing was done
  HELD     the lease is the caller's                             done
  BARE     the same, but there is no meta: Redis forgot it       -

`resume` answers with an empty list for every token that is not good, whatever the reason.
]]

local function is_lost(session, tag)
  local holder = redis.call('GET', session)
  return holder and holder ~= tag
end

local function expire(keys, ttl_ms)
  for i = 2, #keys do
    redis.call('PEXPIRE', keys[i], ttl_ms)
  end
end

-- begin  session meta | tag lease_ms ttl_ms field value…
local function begin(keys, argv)
  if is_lost(keys[1], argv[1]) then
    return 'LOST'
  end
  redis.call('SET', keys[1], argv[1], 'PX', argv[2])
  redis.call('HSET', keys[2], unpack(argv, 4))
  redis.call('PEXPIRE', keys[2], argv[3])
  return 'HELD'
end

-- keep  session meta log… | tag lease_ms ttl_ms      (ttl_ms 0: leave the times to live as they are)
local function keep(keys, argv)
  if is_lost(keys[1], argv[1]) then
    return 'LOST'
  end
  redis.call('SET', keys[1], argv[1], 'PX', argv[2])
  if argv[3] ~= '0' then
    expire(keys, argv[3])
  end
  return redis.call('EXISTS', keys[2]) == 1 and 'HELD' or 'BARE'
end

-- resume  session meta log… | token_hash new_token_hash tag lease_ms ttl_ms edge      answers settings, edge, turn
local function resume(keys, argv)
  local session, meta = keys[1], keys[2]
  local known = redis.call('HMGET', meta, 'token', 'token_old', 'settings', 'edge', 'turn')
  if argv[1] ~= known[1] and argv[1] ~= known[2] then
    return {}
  end
  -- The token that was shown stays good until the client proves, by its next message, that it has the new one.
  redis.call('HSET', meta, 'token', argv[2], 'token_old', argv[1], 'edge', argv[6])
  redis.call('SET', session, argv[3], 'PX', argv[4])
  expire(keys, argv[5])
  return { known[3], known[4], known[5] or '0' }
end

-- settle  session meta | tag
local function settle(keys, argv)
  if is_lost(keys[1], argv[1]) then
    return 'LOST'
  end
  redis.call('HDEL', keys[2], 'token_old')
  return 'HELD'
end

-- release  session meta | tag ended      (ended '1': nobody shall resume it)
local function release(keys, argv)
  if is_lost(keys[1], argv[1]) then
    return 'LOST'
  end
  redis.call('DEL', keys[1])
  if argv[2] == '1' then
    redis.call('HDEL', keys[2], 'token', 'token_old')
  end
  return 'HELD'
end

-- A conversation that was let in is kept, and may be taken over, at maxmemory too.
local OOM = { 'allow-oom' }

redis.register_function('parley_begin_2', begin)
redis.register_function { function_name = 'parley_keep_2', callback = keep, flags = OOM }
redis.register_function { function_name = 'parley_resume_2', callback = resume, flags = OOM }
redis.register_function { function_name = 'parley_settle_2', callback = settle, flags = OOM }
redis.register_function { function_name = 'parley_release_2', callback = release, flags = OOM }
