--[[
  Write how many connections of an app a node holds, where the cluster has a
  limit: as many of those it wants as there is room for. Those of nodes that have
  died are forgotten.

  KEYS[1]  connections  of the app (hash): incarnation -> connections
  KEYS[2]  leases       (hash): incarnation -> counter

  ARGV[1]  node    incarnation
  ARGV[2]  held    connections that it has
  ARGV[3]  wanted  connections that it would have
  ARGV[4]  max     of the cluster

  Returns  how many it may have: between held and wanted.
  Errors   none of its own.
]]
local connections_key, leases_key = KEYS[1], KEYS[2]
local node, held, wanted, max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

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
local granted = math.max(held, math.min(wanted, max - others))
redis.call('HDEL', connections_key, node)
if granted > 0 then
  redis.call('HSET', connections_key, node, granted)
end
return granted
