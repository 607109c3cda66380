"""What happens inside Redis in one step each: numbering and keeping a publication, groups, records.

Redis runs a script as a whole or not at all, and nothing in between, so an acknowledged publication is never half
there. All keys of one prefix carry the same hash tag and so lie in one slot of a Cluster. Times are of Redis' own
clock, in milliseconds: nodes need not agree on theirs.

| key | type | holds |
|---|---|---|
| `topics` | hash | topic → its newest number; `$epoch` → in which it counts; `$floor` → the highest forgotten |
| `log:<topic>` | stream | what is kept of a topic; `5-0` is publication 5, its field `b` the bytes of all up to it |
| `retained` | hash | topic → its retained value |
| `seen`, `answers` | sorted set, hash | dedupe ids by their time; what the first of each was answered |
| `groups` | hash | group → `1` where it is durable; the empty name → the version of this table |
| `work:<group>` | stream | what a group has to do, and no more; its consumer group is `g`, its consumers are nodes |
| `plain:<group>` | sorted set | of what waits there, what need not be acknowledged |
| `lasts` | sorted set | durable group → until when it lasts if no node with members says that it goes on |
| `lost` | hash | group → publications that it has lost and that no member was told of yet |
| `nodes` | hash | node → until when it counts as alive |
| `records:<table>` | hash | key → until when, and the value |
"""

from __future__ import annotations

from webmesh.brokers.redis_group_scripts import GROUP_SCRIPTS, MEMBERS, NOW

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

SHRINK = """
local function up_to(entry)
  local fields = entry and entry[2] or {}
  local sum = fields[7] == 'b' and tonumber(fields[8]) or 0
  if not (sum >= 0 and sum < 2^52) then sum = 0 end
  return sum, fields[6] and #fields[6] or 0
end
local function newest_sum(log)
  local found = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)
  return found.err and 0 or (up_to(found[1]))
end
local function shrink(log, newest, sum, most)
  while sum > most do
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    if not oldest or oldest[1] == newest then return end
    local upto, own = up_to(oldest)
    if upto >= own and upto <= sum and sum - (upto - own) <= most then return end
    redis.call('XDEL', log, oldest[1])
  end
end
"""
"""How many bytes a log holds: each entry says how many there were up to its own end, so that what the oldest and the
newest say is enough, however others have gone. Entries of earlier versions, which say nothing, count for none, and go
first where there are too many. Each sum begins anew before a Lua number would lose exactness."""

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

PUBLISH = NOW + TRIM + SHRINK + ROOM + MEMBERS + """
local topics, retained, seen, answers, groups, log, nodes, lost = unpack(KEYS, 1, 8)
local version, topic, body, live, history, ttl, retain, ack, id = unpack(ARGV, 1, 9)
local window, most_ids, most_topics, backlog, fresh_epoch, name, known_epoch, known_offset = unpack(ARGV, 10, 17)
local logs, works, plains, most_bytes = unpack(ARGV, 18, 21)

if (redis.call('HGET', groups, '') or '0') ~= version then return {'stale'} end

-- A script that fails undoes nothing: what a later step would trip over is looked for before the first.
local function other(key, kind)
  local found = redis.call('TYPE', key).ok
  return found ~= kind and found ~= 'none' and redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found)
end
local wrong = retain ~= '' and other(retained, 'hash')
  or id ~= '' and (other(seen, 'zset') or other(answers, 'hash'))
wrong = wrong or #KEYS > 8 and other(lost, 'hash')
local plain, displaced = {}, {}
for i = 9, #KEYS do
  plain[i] = plains .. string.sub(KEYS[i], #works + 1)
  wrong = wrong or other(KEYS[i], 'stream') or other(plain[i], 'zset')
end
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
for i = 9, #KEYS do
  if full(KEYS[i]) then
    -- What must be acknowledged gives way to nothing else; without members it does, or one group would stop them all.
    if redis.call('ZCARD', plain[i]) > 0 then displaced[i] = 'plain'
    elseif ack ~= '1' then displaced[i] = 'itself'
    elseif members(KEYS[i], nodes) then return {'full'}
    else displaced[i] = 'oldest' end
  end
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
    local sum = most_bytes ~= '' and newest_sum(log) + #body
    if sum then
      entry[#entry + 1] = 'b'
      entry[#entry + 1] = text(sum)
    end
    if redis.pcall('XADD', log, unpack(entry)).err then -- larger numbers stand there, or something else
      redis.call('DEL', log)
      redis.call('XADD', log, unpack(entry))
    end
    if sum then shrink(log, offset .. '-0', sum, tonumber(most_bytes)) end
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
local function lose(i)
  redis.call('HINCRBY', lost, string.sub(KEYS[i], #works + 1), 1)
end
for i = 9, #KEYS do
  if displaced[i] then lose(i) end
  if displaced[i] == 'plain' then
    redis.call('XDEL', KEYS[i], redis.call('ZPOPMIN', plain[i])[1])
  elseif displaced[i] == 'oldest' then
    local group = redis.pcall('XINFO', 'GROUPS', KEYS[i])
    local after = '-'
    for j = 1, #(group[1] or {}) - 1, 2 do
      if group[1][j] == 'last-delivered-id' then after = '(' .. group[1][j + 1] end
    end
    local oldest = redis.call('XRANGE', KEYS[i], after, '+', 'COUNT', 1)[1]
    if oldest then redis.call('XDEL', KEYS[i], oldest[1]) end
  end
  if displaced[i] ~= 'itself' then
    local id = redis.call('XADD', KEYS[i], '*', 't', topic, 'm', message)
    if ack ~= '1' then redis.call('ZADD', plain[i], (string.gsub(id, '-.*', '')), id) end
  end
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

_KEPT = """
local kept = {}
for i = 1, #all, 2 do
  local cut = string.find(all[i + 1], ' ', 1, true)
  if cut and (tonumber(string.sub(all[i + 1], 1, cut - 1)) or 0) > now then
    kept[#kept + 1] = all[i]
    kept[#kept + 1] = string.sub(all[i + 1], cut + 1)
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
"""

RECORDS = NOW + "local all = redis.call('HGETALL', KEYS[1])" + _KEPT + "return kept"
"""The records of one table: in one hash and not in a key each, since Redis finds keys by looking at all there are."""

PAGE = NOW + """
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local all = found[2]
""" + _KEPT + "return {found[1], kept}"
"""Some of them, and where to go on; 0 where that was all. One that stays is in one part at least."""

SCRIPTS = {
    **GROUP_SCRIPTS, "publish": PUBLISH, "history": HISTORY, "kept": KEPT, "forget": FORGET, "beat": BEAT, "put": PUT,
    "claim": CLAIM, "records": RECORDS, "page": PAGE,
}  # fmt: skip
