--[[
  Claim a partition's webhook outbox for a time, or renew the claim, and read its
  webhook events and the due transitions. An empty outbox is not claimed. A claim
  with a duration of 0 releases the outbox.

  KEYS[1]  consumer  of the outbox (hash): node, until (ms), dropped (webhook
                     events dropped because the outbox was full)
  KEYS[2]  outbox    of the partition (stream)
  KEYS[3]  due       of the partition (sorted set)

  ARGV[1]  node       incarnation
  ARGV[2]  lease_ms   duration of the claim
  ARGV[3]  after      id in the stream; '-' reads from the beginning
  ARGV[4]  count_max  limit of webhook events
  ARGV[5]  due_max    limit of due transitions

  Returns  nothing if another node has a claim; else the webhook events, the due
           transitions, and the number of events dropped since the last claim.
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
-- Nodes poll every partition, and most outboxes are empty.
if redis.call('XLEN', outbox_key) == 0 and redis.call('ZCARD', due_key) == 0 and dropped == 0 then
  return { {}, {}, 0 }
end
local webhook_events = {}
if count_max > 0 then
  webhook_events = redis.call('XRANGE', outbox_key, after == '-' and '-' or '(' .. after, '+', 'COUNT', count_max)
end
local due = redis.call('ZRANGEBYSCORE', due_key, '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, due_max)
-- Redis refuses HSET when its memory is full, unless another write precedes it in
-- the script. Outboxes have to be emptied then.
redis.call('HDEL', consumer_key, 'dropped')
redis.call('HSET', consumer_key, 'node', node, 'until', string.format('%.0f', now_ms + lease_ms))
return { webhook_events, due, dropped }
