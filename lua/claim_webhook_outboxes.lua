--[[
  Claim the webhook outboxes of a partition for a time, or renew the claim, and
  list the apps to read now. Without any app the outboxes are not claimed. A claim
  with a duration of 0 releases them.

  KEYS[1]  consumer  of the outboxes (hash): node, until (ms), and `dropped <app>`,
                     the webhook events dropped because the app's outbox was full
  KEYS[2]  apps      with webhook events or scheduled transitions (sorted set), by
                     the time of their next read (ms)

  ARGV[1]  node      process of the node
  ARGV[2]  lease_ms  duration of the claim
  ARGV[3]  is_new    '1' if the node has read none of the outboxes: all apps are read
  ARGV[4]  apps_max  limit of listed apps

  Returns  nothing if another node has a claim; else the apps, the longest overdue
           first, and the apps and numbers of events dropped since the last claim,
           alternately.
  Errors   none of its own.
]]
local consumer_key, apps_key = KEYS[1], KEYS[2]
local node, lease_ms, is_new, apps_max = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%.0f', now_ms)
local consumer, dropped, dropped_fields = {}, {}, {}
local fields = redis.call('HGETALL', consumer_key)
for i = 1, #fields, 2 do
  local app = string.match(fields[i], '^dropped (.*)$')
  if app then
    dropped_fields[#dropped_fields + 1] = fields[i]
    dropped[#dropped + 1], dropped[#dropped + 2] = app, tonumber(fields[i + 1])
  else
    consumer[fields[i]] = fields[i + 1]
  end
end
if consumer['node'] and consumer['node'] ~= node then
  -- More than the duration is left after the clock of Redis was set back.
  local left_ms = tonumber(consumer['until']) - now_ms
  if lease_ms == 0 or (left_ms > 0 and left_ms <= lease_ms) then
    return false
  end
end
if lease_ms == 0 then
  redis.call('HDEL', consumer_key, 'node', 'until')
  return { {}, {} }
end
-- Nodes poll every partition, and most have no events.
if redis.call('ZCARD', apps_key) == 0 and #dropped == 0 then
  return { {}, {} }
end
-- Redis refuses HSET when its memory is full, unless another write precedes it in
-- the script, even one without an effect. Outboxes have to be emptied then.
redis.call('HDEL', consumer_key, '')
redis.call('HSET', consumer_key, 'node', node, 'until', string.format('%.0f', now_ms + lease_ms))
for _, field in ipairs(dropped_fields) do
  redis.call('HDEL', consumer_key, field)
end
if is_new == '1' or consumer['node'] ~= node then
  for _, app in ipairs(redis.call('ZRANGEBYSCORE', apps_key, '(' .. now, '+inf')) do
    redis.call('ZADD', apps_key, now, app)
  end
end
return { redis.call('ZRANGEBYSCORE', apps_key, '-inf', now, 'LIMIT', 0, apps_max), dropped }
