"""What happens inside Redis in one step each: numbering and keeping a publication, groups, records.

Redis runs a script as a whole or not at all, and nothing in between, so an acknowledged publication is never half
there. All keys of one prefix carry the same hash tag and so lie in one slot of a Cluster. Times are of Redis' own
clock, in milliseconds: nodes need not agree on theirs.

| key | type | holds |
|---|---|---|
| `topics` | hash | topic → its newest number; `$epoch` → in which it counts; `$floor` → the highest forgotten |
| `log:<topic>` | stream | what is kept of a topic; the entry `5-0` is publication 5 |
| `retained` | hash | topic → its retained value |
| `seen`, `answers` | sorted set, hash | dedupe ids by their time; what the first of each was answered |
| `groups` | hash | group → `1` where it is durable; the empty name → the version of this table |
| `work:<group>` | stream | what a group has to do, and no more; its consumer group is `g`, its consumers are nodes |
| `nodes` | hash | node → until when it counts as alive |
| `records:<table>` | hash | key → until when, and the value |
"""

from __future__ import annotations

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
"""

TRIM = """
local function trim(log)
  while true do
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    if not oldest then return end
    local fields = oldest[2]
    if fields[3] ~= 'u' or fields[4] == '' or (tonumber(fields[4]) or 0) > now then return end
    redis.call('XDEL', log, oldest[1])
  end
end
"""

ROOM = """
local function room(topics, logs, most)
  local function count() return redis.call('HLEN', topics) - 4 end
  redis.call('HSETNX', topics, '$floor', '0')
  redis.call('HSETNX', topics, '$swept', '0')
  redis.call('HSETNX', topics, '$cursor', '0')
  redis.call('HSETNX', topics, '$epoch', ARGV[14])
  if count() < most then return true end
  if now - (tonumber(redis.call('HGET', topics, '$swept')) or 0) < 1000 then return false end
  redis.call('HSET', topics, '$swept', text(now))
  local cursor = redis.call('HGET', topics, '$cursor')
  if not string.find(cursor, '^%d+$') then cursor = '0' end
  for _ = 1, 100 do
    local page = redis.call('HSCAN', topics, cursor, 'COUNT', 100)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local topic, number = page[2][i], tonumber(page[2][i + 1])
      if string.sub(topic, 1, 1) ~= '$' and redis.call('EXISTS', logs .. topic) == 0 then
        if number and number > (tonumber(redis.call('HGET', topics, '$floor')) or 0) then
          redis.call('HSET', topics, '$floor', text(number))
        end
        redis.call('HDEL', topics, topic)
      end
    end
    if cursor == '0' then break end
  end
  redis.call('HSET', topics, '$cursor', cursor)
  return count() < most
end
"""
"""Whether another topic can be numbered. Once a second those make room of which nothing is kept any more: of these no
more needs to be known than that their numbers were used."""

PUBLISH = NOW + TRIM + ROOM + """
local topics, retained, seen, answers, groups, log = unpack(KEYS, 1, 6)
local version, topic, body, live, history, ttl, retain, ack, id = unpack(ARGV, 1, 9)
local window, most_ids, most_topics, backlog, fresh_epoch, name, known_epoch, known_offset = unpack(ARGV, 10, 17)
local logs = ARGV[18]

if (redis.call('HGET', groups, '') or '0') ~= version then return {'stale'} end

-- A script that fails undoes nothing: what a later step would trip over is looked for before the first.
local function other(key, kind)
  local found = redis.call('TYPE', key).ok
  return found ~= kind and found ~= 'none' and redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found)
end
local wrong = retain ~= '' and other(retained, 'hash')
  or id ~= '' and (other(seen, 'zset') or other(answers, 'hash'))
for i = 7, #KEYS do wrong = wrong or other(KEYS[i], 'stream') end
if wrong then return wrong end

local once = id ~= '' and topic .. '\\31' .. id
if once then
  local past = redis.call('ZRANGEBYSCORE', seen, '-inf', now - window, 'LIMIT', 0, 100)
  if #past > 0 then
    redis.call('ZREM', seen, unpack(past))
    redis.call('HDEL', answers, unpack(past))
  end
  local at = redis.call('ZSCORE', seen, once)
  if at and tonumber(at) > now - window then
    return {'seen', redis.call('HGET', answers, once) or ' '}
  end
end

local function full(work)
  local length = redis.call('XLEN', work)
  if length < tonumber(backlog) then return false end
  local pending = redis.pcall('XPENDING', work, 'g')
  return length - (pending.err and 0 or pending[1]) >= tonumber(backlog)
end
for i = 7, #KEYS do
  if ack == '1' and full(KEYS[i]) then return {'full'} end
end
local numbered = history ~= '0' or ack == '1'
local last, new, spoilt = 0, false, false
if numbered then
  local held, floor = redis.call('HGET', topics, topic), redis.call('HGET', topics, '$floor')
  spoilt = held and not tonumber(held) or floor and not tonumber(floor)
  last = tonumber(held)
  new = not last
  last = last or tonumber(floor) or 0
  if new and not room(topics, logs, tonumber(most_topics)) then return {'room'} end
end
if retain == '1' and redis.call('HEXISTS', retained, topic) == 0
  and redis.call('HLEN', retained) >= tonumber(most_topics) then return {'room'} end

local offset, epoch = '-', '-'
if numbered then
  epoch = redis.call('HGET', topics, '$epoch')
  -- Redis came back without what a node has seen there, or somebody has written over it: numbers would be given twice,
  -- so they count anew.
  if spoilt and not tonumber(redis.call('HGET', topics, '$floor')) then redis.call('HSET', topics, '$floor', '0') end
  if not epoch or spoilt or (epoch == known_epoch and last < tonumber(known_offset)) then
    epoch = fresh_epoch
    redis.call('HSET', topics, '$epoch', epoch)
  end
  if new then redis.call('DEL', log) end
  offset = text(last + 1)
  redis.call('HSET', topics, topic, offset)
  if history == '0' then
    redis.call('DEL', log)
  else
    local entry = {'MAXLEN', '=', history, offset .. '-0',
      'a', text(now), 'u', ttl ~= '' and text(now + ttl) or '', 'm', body}
    if redis.pcall('XADD', log, unpack(entry)).err then -- larger numbers stand there, or something else
      redis.call('DEL', log)
      redis.call('XADD', log, unpack(entry))
    end
    if ttl ~= '' then
      trim(log)
      redis.call('PEXPIRE', log, ttl)
    else
      redis.call('PERSIST', log)
    end
  end
end
local message = offset .. ' ' .. epoch .. ' ' .. text(now) .. ' ' .. name .. '\\n' .. body
if retain == '1' then
  redis.call('HSET', retained, topic, message)
elseif retain == '0' then
  redis.call('HDEL', retained, topic)
end
if once then
  if redis.call('ZCARD', seen) >= tonumber(most_ids) then
    redis.call('HDEL', answers, redis.call('ZPOPMIN', seen)[1])
  end
  redis.call('ZADD', seen, now, once)
  redis.call('HSET', answers, once, offset .. ' ' .. epoch)
end
for i = 7, #KEYS do
  if full(KEYS[i]) then
    local group = redis.pcall('XINFO', 'GROUPS', KEYS[i])
    local after = '-'
    for j = 1, #(group[1] or {}) - 1, 2 do
      if group[1][j] == 'last-delivered-id' then after = '(' .. group[1][j + 1] end
    end
    local oldest = redis.call('XRANGE', KEYS[i], after, '+', 'COUNT', 1)[1]
    if oldest then redis.call('XDEL', KEYS[i], oldest[1]) end
  end
  redis.call('XADD', KEYS[i], '*', 't', topic, 'm', message)
  redis.call('PUBLISH', KEYS[i], '')
end
redis.call('PUBLISH', live, message)
return {'ok', offset .. ' ' .. epoch}
"""
"""Number, keep, remember, hand to groups and send out, all or nothing.

The node says which groups match; a node that knows another version of their table is sent to read it (`stale`).
"""

HISTORY = NOW + TRIM + """
local topics, log = KEYS[1], KEYS[2]
local topic, first, last, count, reverse = unpack(ARGV)
trim(log)
local function number(field) return tonumber(redis.call('HGET', topics, field)) end
local newest = text(number(topic) or number('$floor') or 0)
local epoch = redis.call('HGET', topics, '$epoch')
if not epoch then
  epoch = ARGV[6]
  redis.call('HSET', topics, '$epoch', epoch)
end
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local found
if reverse == '1' then
  found = redis.call('XREVRANGE', log, last, first, 'COUNT', count)
else
  found = redis.call('XRANGE', log, first, last, 'COUNT', count)
end
return {epoch, newest, text(now), oldest and oldest[1] or '', found}
"""
"""One page of a topic's past, with the newest and the oldest number at the same moment."""

KEPT = NOW + TRIM + """
local found = {}
for i, log in ipairs(KEYS) do
  trim(log)
  found[i] = redis.call('EXISTS', log) == 1 and redis.call('XLEN', log) > 0 and 1 or 0
end
return found
"""
"""Of which of these logs anything is left."""

FORGET = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""
"""Take a retained value away that is still the one that was seen to be too old."""

JOIN = NOW + """
local groups, work, nodes = unpack(KEYS)
local group, durable, node, lease = unpack(ARGV)
redis.pcall('XGROUP', 'CREATE', work, 'g', '0', 'MKSTREAM')
redis.call('XGROUP', 'CREATECONSUMER', work, 'g', node)
redis.call('HSET', nodes, node, text(now + lease))
if redis.call('HGET', groups, group) ~= durable then
  redis.call('HSET', groups, group, durable)
  redis.call('HINCRBY', groups, '', 1)
end
return 1
"""

LEAVE = NOW + """
local groups, work, nodes = unpack(KEYS)
local group, node = unpack(ARGV, 1, 2)
for i = 3, #ARGV do
  redis.pcall('XACK', work, 'g', ARGV[i])
  redis.pcall('XDEL', work, ARGV[i])
end
local consumers = redis.pcall('XINFO', 'CONSUMERS', work, 'g')
if consumers.err then consumers = {} end
local others = false
for _, consumer in ipairs(consumers) do
  local name = consumer[2]
  local alive = redis.call('HGET', nodes, name)
  if name == node then
    for _ = 1, 200 do
      local ids = {}
      for i, one in ipairs(redis.call('XPENDING', work, 'g', '-', '+', 500, node)) do ids[i] = one[1] end
      if #ids == 0 then break end
      ids[#ids + 1] = 'JUSTID'
      redis.call('XCLAIM', work, 'g', '-', 0, unpack(ids))
    end
    redis.call('XGROUP', 'DELCONSUMER', work, 'g', node)
  elseif alive and (tonumber(alive) or 0) > now then
    others = true
  end
end
local durable = redis.call('HGET', groups, group)
if durable == '0' and not others then
  redis.call('DEL', work)
  redis.call('HDEL', groups, group)
  redis.call('HINCRBY', groups, '', 1)
elseif node ~= '' then
  redis.call('PUBLISH', work, 'left')
end
return 1
"""
"""A node has no members any more: what it has not done is nobody's, `-`, until another takes it. The last one takes a
group along that is not durable. Without a node: only the latter, for groups whose nodes have died."""

TAKE = NOW + """
local work, nodes = KEYS[1], KEYS[2]
local node, room, rescue, own = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
for i = 5, #ARGV do
  redis.call('XACK', work, 'g', ARGV[i])
  redis.call('XDEL', work, ARGV[i])
end
local taken, more = {}, 0
local function add(entries)
  for _, entry in ipairs(entries) do
    if entry and entry[2] then
      taken[#taken + 1] = entry
      room = room - 1
    end
  end
end
if own == '1' then
  local read = redis.call('XREADGROUP', 'GROUP', 'g', node, 'COUNT', 10000, 'STREAMS', work, '0')
  for _, entry in ipairs(read and read[1][2] or {}) do
    if entry[2] then taken[#taken + 1] = entry else redis.call('XACK', work, 'g', entry[1]) end
  end
  return {1, taken}
end
if rescue == '1' then
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', work, 'g')) do
    local name, pending = consumer[2], consumer[4]
    local alive = redis.call('HGET', nodes, name)
    if name ~= node and not (alive and (tonumber(alive) or 0) > now) then
      if pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', work, 'g', name)
      elseif room <= 0 then
        more = 1
      else
        local ids = {}
        for i, one in ipairs(redis.call('XPENDING', work, 'g', '-', '+', math.min(room, 500), name)) do
          ids[i] = one[1]
        end
        add(redis.call('XCLAIM', work, 'g', node, 0, unpack(ids)))
        if pending > #ids then more = 1 end
      end
    end
  end
end
if room > 0 then
  local read = redis.call('XREADGROUP', 'GROUP', 'g', node, 'COUNT', room, 'STREAMS', work, '>')
  if read then add(read[1][2]) end
end
return {more, taken}
"""
"""Tell what is done and take what there is room for: first what dead nodes held, then what nobody has.

Not by XAUTOCLAIM, which goes by how long a message was with somebody: who is alive may take its time.
"""

BEAT = NOW + """
local until_then = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], text(now + ARGV[2]))
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if (tonumber(all[i + 1]) or 0) < now - 3600000 then redis.call('HDEL', KEYS[1], all[i]) end
end
return (until_then and (tonumber(until_then) or 0) > now) and 1 or 0
"""
"""This node is alive for another while; 0 when it was taken for dead before."""

PUT = NOW + """
redis.call('HSET', KEYS[1], ARGV[1], text(now + ARGV[2]) .. ' ' .. ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""

CLAIM = NOW + """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if not found then return false end
redis.call('HDEL', KEYS[1], ARGV[1])
local cut = string.find(found, ' ', 1, true)
if not cut or (tonumber(string.sub(found, 1, cut - 1)) or 0) <= now then return false end
return string.sub(found, cut + 1)
"""

RECORDS = NOW + """
local all, kept = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local cut = string.find(all[i + 1], ' ', 1, true)
  if cut and (tonumber(string.sub(all[i + 1], 1, cut - 1)) or 0) > now then
    kept[#kept + 1] = all[i]
    kept[#kept + 1] = string.sub(all[i + 1], cut + 1)
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return kept
"""
"""The records of one table: in one hash and not in a key each, since Redis finds keys by looking at all there are."""

SCRIPTS = {
    "publish": PUBLISH, "history": HISTORY, "kept": KEPT, "forget": FORGET, "join": JOIN, "leave": LEAVE, "take": TAKE,
    "beat": BEAT, "put": PUT, "claim": CLAIM, "records": RECORDS,
}  # fmt: skip
