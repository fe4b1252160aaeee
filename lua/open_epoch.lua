--[[
  Open a new epoch after a fork: Redis has lost entries that nodes have delivered,
  so its sequence numbers must continue above all that were received. The first
  call opens the epoch; later calls for the same epoch fail the comparison. The
  delta toggle and the stored bases of the previous epoch are removed.

  KEYS[1]  head        of the channel (hash)
  KEYS[2]  bases       of the channel (hash), as in include/keep_bases.lua
  KEYS[3]  base_order  of the channel (sorted set)

  ARGV[1]  epoch     the epoch to end
  ARGV[2]  seen_seq  highest sequence number the node has received on the channel

  Returns  1 if the call has opened an epoch, 0 if the channel is not in `epoch`.
  Errors   none of its own.
]]
local head_key, bases_key, base_order_key = KEYS[1], KEYS[2], KEYS[3]
local epoch, seen_seq = ARGV[1], tonumber(ARGV[2])

redis.call('HLEN', bases_key)
redis.call('ZCARD', base_order_key)
local head = redis.call('HMGET', head_key, 'epoch', 'seq')
if head[1] ~= epoch then
  return 0
end
local time = redis.call('TIME')
local start = string.format('%.0f', math.max(time[1] * 1000000 + time[2], seen_seq, tonumber(head[2])))
redis.call('HSET', head_key, 'epoch', start, 'seq', start)
redis.call('HDEL', head_key, 'deltas', 'counts')
redis.call('DEL', bases_key, base_order_key)
return 1
