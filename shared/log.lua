#!lua name=parley_log_2

--[[
The turn-addressed log. An entry's id is <turn>-<seq>: turns from 1, seq contiguous from 0.

  key                               what
  KEYS[1]  conv:{id}:<log>          the stream; also the channel on which each entry is pushed
  KEYS[2]  conv:{id}:session        for an edge, but not in take: no other session's tag may stand there

  every entry begins with           w <writer's tag>  kind <kind>  at <Unix us>  sum <bytes of the turn so far>

  verdict   append                                             take                close
  CLOSED    the turn is final, or a later one has begun        the same            a later turn has begun
  BUSY      the turn before is not final                       the same            -
  GAP n     entries before seq are missing: write from n on    -                   entries up to `seen` are missing
  DUP n     up to n stand the caller's own, same payloads      tail is its own     is closed already, at n
  TAKEN     the tail, or the session, is another writer's      tail is another's   the session, or with `owner`
                                                               after its own       the tail, is another's
  FULL      the turn has reached its bound of bytes            -                   -
  OK n      written; n is the next seq                         the same            closed at seq n

T, S are turn and seq of the tail. An empty log has T = 0 and counts as final. `end` and `closed` are final.
The tail is read from the stream itself: there is no second truth to fall out of step with it.
]]

local HEAD = 8          -- fields before the payload: w, kind, at, sum and their values
local TTL_EACH = 64     -- the time to live is set again when seq crosses a multiple of this
local PAGE = 64         -- entries looked at in one go

local FINAL = { ['end'] = true, ['closed'] = true }

local function tail(key)
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if not entry then
    return { turn = 0, seq = -1, final = true, sum = 0 }
  end
  local turn, seq = string.match(entry[1], '^(%d+)-(%d+)$')
  local fields = entry[2]
  return {
    turn = tonumber(turn), seq = tonumber(seq), writer = fields[2], kind = fields[4],
    -- Somebody else may have added an entry by hand, without a sum: the turn can be closed all the same.
    final = FINAL[fields[4]] or false, sum = tonumber(fields[8]) or 0,
  }
end

-- Writes one entry and pushes it. `payload` is a flat list of names and values.
local function write(key, turn, seq, writer, kind, at, sum, payload)
  local id = turn .. '-' .. seq
  local entry = { 'w', writer, 'kind', kind, 'at', at, 'sum', tostring(sum), unpack(payload) }
  redis.call('XADD', key, id, unpack(entry))
  redis.call('SPUBLISH', key, cmsgpack.pack({ id, entry }))
end

-- Whether an edge session lost its conversation to another one. A lease that merely ran out took nothing away.
local function is_stale(session, writer)
  local holder = session and redis.call('GET', session)
  return holder and holder ~= writer
end

local function size(payload)
  local bytes = 0
  for i = 2, #payload, 2 do
    bytes = bytes + #payload[i]
  end
  return bytes
end

local function is_same(fields, writer, entry)
  if fields[2] ~= writer or fields[4] ~= entry.kind or #fields ~= HEAD + #entry.payload then
    return false
  end
  for i = 1, #entry.payload do
    if fields[HEAD + i] ~= entry.payload[i] then
      return false
    end
  end
  return true
end

-- The first seq, from the given one on, that does not hold this writer's entry with the same payload.
local function own_until(key, turn, seq, writer, entries)
  local found = redis.call('XRANGE', key, turn .. '-' .. seq, turn .. '-' .. (seq + #entries - 1))
  for i, entry in ipairs(entries) do
    if not found[i] or not is_same(found[i][2], writer, entry) then
      return seq + i - 1
    end
  end
  return seq + #entries
end

-- Whether anything in the turn is this writer's.
local function has_written(key, turn, writer)
  local from, page = turn .. '-0', nil
  repeat
    page = redis.call('XRANGE', key, from, turn, 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      if entry[2][2] == writer then
        return true
      end
      from = '(' .. entry[1]
    end
  until #page < PAGE
  return false
end

-- ARGV from the given place on: for each entry its number of payload fields, kind, at, payload …
local function unpack_entries(argv, place)
  local entries = {}
  while place <= #argv do
    local count = tonumber(argv[place])
    local payload = {}
    for i = 1, count do
      payload[i] = argv[place + 2 + i]
    end
    entries[#entries + 1] = { kind = argv[place + 1], at = argv[place + 2], payload = payload }
    place = place + 3 + count
  end
  return entries
end

local function expire(key, first, next_seq, ttl_ms)
  if first == 0 or math.floor((first - 1) / TTL_EACH) ~= math.floor((next_seq - 1) / TTL_EACH) then
    redis.call('PEXPIRE', key, ttl_ms)
  end
end

-- append  log [session] | turn seq writer max_bytes ttl_ms entries…
local function append(keys, argv)
  local key, turn, seq, writer = keys[1], tonumber(argv[1]), tonumber(argv[2]), argv[3]
  local max_bytes, ttl_ms = tonumber(argv[4]), argv[5]
  local entries = unpack_entries(argv, 6)
  if is_stale(keys[2], writer) then
    return { 'TAKEN', 0 }
  end
  local last = tail(key)

  if turn < last.turn then
    return { 'CLOSED', 0 }
  end
  local sum = 0
  if turn > last.turn then
    if not last.final then
      return { 'BUSY', 0 }
    end
    if seq > 0 then
      return { 'GAP', 0 }
    end
  else
    if seq <= last.seq then
      local next_seq = own_until(key, turn, seq, writer, entries)
      if next_seq > seq then
        return { 'DUP', next_seq }
      end
    end
    if last.final then
      return { 'CLOSED', 0 }
    end
    if last.writer ~= writer or seq <= last.seq then
      return { 'TAKEN', 0 }
    end
    if seq > last.seq + 1 then
      return { 'GAP', last.seq + 1 }
    end
    sum = last.sum
  end

  local total, growing = sum, false
  for _, entry in ipairs(entries) do
    total = total + size(entry.payload)
    growing = growing or not FINAL[entry.kind]
  end
  if growing and total > max_bytes then
    return { 'FULL', seq }
  end
  for i, entry in ipairs(entries) do
    sum = sum + size(entry.payload)
    write(key, turn, seq + i - 1, writer, entry.kind, entry.at, sum, entry.payload)
  end
  expire(key, seq, seq + #entries, ttl_ms)
  return { 'OK', seq + #entries }
end

-- take  log | turn writer ttl_ms at payload…
local function take(keys, argv)
  local key, turn, writer, ttl_ms, at = keys[1], tonumber(argv[1]), argv[2], argv[3], argv[4]
  local last = tail(key)
  if turn < last.turn then
    return { 'CLOSED', 0 }
  end
  local seq, sum = 0, 0
  if turn > last.turn then
    if not last.final then
      return { 'BUSY', 0 }
    end
  else
    if last.final then
      return { 'CLOSED', 0 }
    end
    if last.writer == writer then
      return { 'DUP', last.seq + 1 }
    end
    -- A tag takes a turn once. A take that is executed after its time-out, when another writer has gone on,
    -- would make the tail its writer's own again, and let in what that writer still has in flight.
    if has_written(key, turn, writer) then
      return { 'TAKEN', 0 }
    end
    seq, sum = last.seq + 1, last.sum
  end
  write(key, turn, seq, writer, 'take', at, sum, { unpack(argv, 5) })
  redis.call('PEXPIRE', key, ttl_ms)
  return { 'OK', seq + 1 }
end

-- close  log [session] | turn writer ttl_ms at owner seen payload…
-- owner: '1' if the tail must be the caller's. seen: the last seq of the turn that the caller has read, or -1.
local function close(keys, argv)
  local key, session = keys[1], keys[2]
  local turn, writer, ttl_ms, at, owner = tonumber(argv[1]), argv[2], argv[3], argv[4], argv[5]
  local seen = tonumber(argv[6])
  if is_stale(session, writer) then
    return { 'TAKEN', 0 }
  end
  local last = tail(key)
  if turn < last.turn then
    return { 'CLOSED', 0 }
  end
  local seq, sum = 0, 0
  if turn == last.turn then
    if last.kind == 'closed' then
      return { 'DUP', last.seq }
    end
    if owner == '1' and last.writer ~= writer then
      return { 'TAKEN', 0 }
    end
    if last.seq < seen then
      return { 'GAP', last.seq + 1 }
    end
    seq, sum = last.seq + 1, last.sum
  elseif seen >= 0 then
    return { 'GAP', 0 }
  elseif not last.final then
    write(key, last.turn, last.seq + 1, writer, 'closed', at, last.sum, { 'reason', 'superseded' })
  end
  write(key, turn, seq, writer, 'closed', at, sum, { unpack(argv, 7) })
  redis.call('PEXPIRE', key, ttl_ms)
  return { 'OK', seq }
end

-- trim  log [session] | turn writer      drops the turns before `turn`; TAKEN if the session is another writer's
local function trim(keys, argv)
  if is_stale(keys[2], argv[2]) then
    return { 'TAKEN', 0 }
  end
  return { 'OK', redis.call('XTRIM', keys[1], 'MINID', argv[1] .. '-0') }
end

redis.register_function('parley_append_2', append)
redis.register_function('parley_take_2', take)
-- What ends a turn must work at maxmemory too, or nothing could ever be freed.
redis.register_function { function_name = 'parley_close_2', callback = close, flags = { 'allow-oom' } }
redis.register_function { function_name = 'parley_trim_2', callback = trim, flags = { 'allow-oom' } }
