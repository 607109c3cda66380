"""What happens inside Redis to groups, in one step each; which keys there are is in `redis_scripts`."""

from __future__ import annotations

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
"""

MEMBERS = """
local function members(work, nodes)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', work, 'g')
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local alive = redis.call('HGET', nodes, consumer[2])
    if alive and (tonumber(alive) or 0) > now then return true end
  end
  return false
end
"""
"""Whether a node that is alive has members of a group."""

JOIN = NOW + """
local groups, work, nodes, lasts = unpack(KEYS)
local group, durable, node, lease, ttl, version = unpack(ARGV)
if (version or '') ~= '' and redis.call('HGET', groups, group) ~= durable
  and (redis.call('HGET', groups, '') or '0') ~= version then return 0 end
redis.pcall('XGROUP', 'CREATE', work, 'g', '0', 'MKSTREAM')
redis.call('XGROUP', 'CREATECONSUMER', work, 'g', node)
redis.call('HSET', nodes, node, text(now + lease))
if redis.call('HGET', groups, group) ~= durable then
  redis.call('HSET', groups, group, durable)
  redis.call('HINCRBY', groups, '', 1)
end
if durable == '1' and ttl ~= '' then
  redis.pcall('ZADD', lasts, text(now + math.max(ttl, lease)), group)
else
  redis.pcall('ZREM', lasts, group)
end
return 1
"""
"""A node has members; said again with each beat, so that a group's life without members begins with the last one.

A new group is made only while the table of groups is of the version that the node has counted in; 0 if it is not.
"""

END = NOW + """
local groups, lasts, lost = unpack(KEYS)
local works, plains, most = unpack(ARGV)
local ended = {}
if redis.call('TYPE', lasts).ok ~= 'zset' then return ended end
for _, group in ipairs(redis.call('ZRANGEBYSCORE', lasts, '-inf', now, 'LIMIT', 0, 10)) do
  local length = redis.pcall('XLEN', works .. group)
  if type(length) ~= 'number' then length = 0 end
  if length > 0 and redis.call('HLEN', lost) < tonumber(most) then redis.pcall('HINCRBY', lost, group, length) end
  redis.call('DEL', works .. group, plains .. group)
  redis.call('HDEL', groups, group)
  redis.call('HINCRBY', groups, '', 1)
  redis.call('ZREM', lasts, group)
  ended[#ended + 1] = group
  ended[#ended + 1] = length
end
return ended
"""
"""End durable groups that nobody has taken for too long; which, and how much each had to do."""

DROP = NOW + MEMBERS + """
local groups, work, nodes, lasts, lost, plain = unpack(KEYS)
local group = ARGV[1]
if redis.call('HGET', groups, group) ~= '1' then return -1 end
if members(work, nodes) then return -2 end
local length = redis.call('XLEN', work)
redis.call('DEL', work, plain)
redis.call('HDEL', groups, group)
redis.call('HINCRBY', groups, '', 1)
redis.call('ZREM', lasts, group)
redis.call('HDEL', lost, group)
return length
"""
"""End a durable group; how much it had to do, -1 where there is none, -2 where it has members."""

LEAVE = NOW + """
local groups, work, nodes, lost, plain = unpack(KEYS)
local group, node = unpack(ARGV, 1, 2)
for i = 3, #ARGV do
  redis.pcall('XACK', work, 'g', ARGV[i])
  redis.pcall('XDEL', work, ARGV[i])
  redis.pcall('ZREM', plain, ARGV[i])
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
  redis.call('DEL', work, plain)
  redis.call('HDEL', lost, group)
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
local work, nodes, lost, plain = unpack(KEYS)
local node, room, rescue, own, group = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
for i = 6, #ARGV do
  redis.call('XACK', work, 'g', ARGV[i])
  redis.call('XDEL', work, ARGV[i])
end
local taken, more = {}, 0
local function add(entries)
  for _, entry in ipairs(entries) do
    if entry and entry[2] then
      taken[#taken + 1] = entry
      room = room - 1
      redis.call('ZREM', plain, entry[1])
    end
  end
end
if own == '1' then
  local read = redis.call('XREADGROUP', 'GROUP', 'g', node, 'COUNT', 10000, 'STREAMS', work, '0')
  for _, entry in ipairs(read and read[1][2] or {}) do
    if entry[2] then taken[#taken + 1] = entry else redis.call('XACK', work, 'g', entry[1]) end
  end
  return {1, taken, 0}
end
local missed = room > 0 and redis.pcall('HGET', lost, group)
missed = type(missed) == 'string' and tonumber(missed) or 0
if missed > 0 then redis.call('HDEL', lost, group) end
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
return {more, taken, missed}
"""
"""Tell what is done and take what there is room for: first what dead nodes held, then what nobody has.

Not by XAUTOCLAIM, which goes by how long a message was with somebody: who is alive may take its time.
"""

GROUP_SCRIPTS = {"join": JOIN, "end": END, "drop": DROP, "leave": LEAVE, "take": TAKE}
