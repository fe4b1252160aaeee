--[[
  Fence a node, unless it has renewed its lease since the observation. From then
  on its renewals fail, and its memberships have to be swept.

  KEYS[1]  leases  (hash): incarnation -> counter
  KEYS[2]  dead    (hash): incarnation -> time of its fencing, ms

  ARGV[1]  node     incarnation
  ARGV[2]  counter  value at which the lease counter stopped

  Returns  1 if this call has fenced the node, else 0.
  Errors   none of its own.
]]
local leases_key, dead_key = KEYS[1], KEYS[2]
local node, counter = ARGV[1], ARGV[2]

redis.call('HLEN', dead_key)
if redis.call('HGET', leases_key, node) ~= counter then
  return 0
end
local time = redis.call('TIME')
redis.call('HDEL', leases_key, node)
redis.call('HSET', dead_key, node, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return 1
