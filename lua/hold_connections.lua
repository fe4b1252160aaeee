--[[
  Write a node's connection count for an app with a cluster-wide connection limit,
  and grant as many of the requested connections as the limit permits. Removes the
  counts of dead nodes.

  KEYS[1]  connections  of the app (hash): incarnation -> connections
  KEYS[2]  leases       (hash): incarnation -> counter

  ARGV[1]  node       incarnation
  ARGV[2]  held       current connections of the node
  ARGV[3]  requested  requested connections of the node, in total
  ARGV[4]  max        limit of the cluster

  Returns  the permitted connections of the node: between held and requested.
  Errors   none of its own.
]]
local connections_key, leases_key = KEYS[1], KEYS[2]
local node, held, requested, max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

redis.call('HLEN', leases_key)
local others = 0
local connections = redis.call('HGETALL', connections_key)
for i = 1, #connections, 2 do
  local other = connections[i]
  if other ~= node then
    if redis.call('HEXISTS', leases_key, other) == 1 then
      others = others + tonumber(connections[i + 1])
    else
      redis.call('HDEL', connections_key, other)
    end
  end
end
local granted = math.max(held, math.min(requested, max - others))
redis.call('HDEL', connections_key, node)
if granted > 0 then
  redis.call('HSET', connections_key, node, granted)
end
return granted
