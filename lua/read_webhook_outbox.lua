--[[
  Read webhook events and due transitions of one app, and set the time of its next
  read: now if there may be more, otherwise at its next transition. An app without
  events and transitions leaves the index.

  KEYS[1]  consumer  of the outboxes of the partition (hash)
  KEYS[2]  apps      with webhook events or scheduled transitions (sorted set)
  KEYS[3]  outbox    of the app in the partition (stream)
  KEYS[4]  due       transitions of the app in the partition (sorted set)

  ARGV[1]  node       process of the node
  ARGV[2]  app
  ARGV[3]  after      id in the stream; '-' reads from the beginning
  ARGV[4]  count_max  limit of webhook events. With 0, the node reads again without
                      being listed
  ARGV[5]  due_max    limit of due transitions

  Returns  nothing if the node has no claim; else the webhook events, the due
           transitions, and the time in ms: the ids of the events are times of the
           same clock.
  Errors   none of its own.
]]
local consumer_key, apps_key, outbox_key, due_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local node, app, after, count_max, due_max = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%.0f', now_ms)
local consumer = redis.call('HMGET', consumer_key, 'node', 'until')
redis.call('ZCARD', apps_key)
if consumer[1] ~= node or tonumber(consumer[2]) <= now_ms then
  return false
end
local webhook_events = {}
if count_max > 0 then
  webhook_events = redis.call('XRANGE', outbox_key, after == '-' and '-' or '(' .. after, '+', 'COUNT', count_max)
end
local due = redis.call('ZRANGEBYSCORE', due_key, '-inf', now, 'LIMIT', 0, due_max)
local next_read = now
if #due == 0 and (count_max == 0 or #webhook_events < count_max) then
  local later = redis.call('ZRANGEBYSCORE', due_key, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  next_read = later[2] or redis.call('XLEN', outbox_key) > 0 and '+inf'
end
-- Redis refuses ZADD when its memory is full, unless another write precedes it.
redis.call('ZREM', apps_key, '')
if next_read then
  redis.call('ZADD', apps_key, next_read, app)
else
  redis.call('ZREM', apps_key, app)
end
return { webhook_events, due, now }
