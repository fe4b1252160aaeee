--[[
  This node is alive: its lease is a counter, not a time, because nobody's clock
  is trusted but one's own. Whoever sees the counter stand still for long enough
  declares the node dead.

  KEYS[1]  leases  (hash): incarnation -> counter
  KEYS[2]  dead    (hash): incarnation -> when it was condemned, ms

  ARGV[1]  node    incarnation
  ARGV[2]  is_new  '1' to begin the lease, '0' to renew it

  Returns  two flat lists of pairs: all leases with their counters, and all dead
           nodes with the ms since they were condemned.
  Errors   SWEPT  the lease is gone: the node was condemned, or Redis has lost
                  its data. The node has to take a new incarnation.
]]
local leases_key, dead_key = KEYS[1], KEYS[2]
local node, is_new = ARGV[1], ARGV[2]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local dead = redis.call('HGETALL', dead_key)
for i = 2, #dead, 2 do
  dead[i] = string.format('%.0f', now_ms - dead[i])
end
if is_new == '0' and redis.call('HEXISTS', leases_key, node) == 0 then
  return redis.error_reply('SWEPT the lease of this node is gone')
end
-- Redis refuses HINCRBY when its memory is full, but not after another write.
-- Just then leases must go on, or nobody could sweep and so free memory.
redis.call('HDEL', leases_key, '')
redis.call('HINCRBY', leases_key, node, 1)
return { redis.call('HGETALL', leases_key), dead }
