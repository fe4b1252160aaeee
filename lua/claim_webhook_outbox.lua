--[[
  Claim a partition's outbox for a while, or renew the claim, and read what it
  holds and what is due. Where there is nothing, nothing is claimed. A claim for no
  time at all gives it up.

  KEYS[1]  consumer  of the outbox (hash): node, until (ms), dropped (notices
                     that found the outbox full)
  KEYS[2]  outbox    of the partition (stream)
  KEYS[3]  due       of the partition (sorted set)

  ARGV[1]  node       incarnation
  ARGV[2]  lease_ms   how long the claim holds
  ARGV[3]  after      id in the stream; '-' from the beginning
  ARGV[4]  count_max  notices to be read
  ARGV[5]  due_max    entries that are due to be read

  Returns  nothing if another node has claimed it; else the notices, what is due,
           and how many were dropped since the last claim.
  Errors   none of its own.
]]
local consumer_key, outbox_key, due_key = KEYS[1], KEYS[2], KEYS[3]
local node, lease_ms, after, count_max = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local due_max = ARGV[5]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local consumer = redis.call('HMGET', consumer_key, 'node', 'until', 'dropped')
if consumer[1] and consumer[1] ~= node and tonumber(consumer[2]) > now_ms then
  return false
end
local dropped = tonumber(consumer[3] or 0)
if lease_ms == 0 then
  redis.call('DEL', consumer_key)
  return { {}, {}, dropped }
end
-- Most have nothing, and are asked again and again.
if redis.call('XLEN', outbox_key) == 0 and redis.call('ZCARD', due_key) == 0 and dropped == 0 then
  return { {}, {}, 0 }
end
local notices = {}
if count_max > 0 then
  notices = redis.call('XRANGE', outbox_key, after == '-' and '-' or '(' .. after, '+', 'COUNT', count_max)
end
local due = redis.call('ZRANGEBYSCORE', due_key, '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, due_max)
-- Redis refuses HSET when its memory is full, but not after another write. Just
-- then outboxes must be emptied.
redis.call('HDEL', consumer_key, 'dropped')
redis.call('HSET', consumer_key, 'node', node, 'until', string.format('%.0f', now_ms + lease_ms))
return { notices, due, dropped }
