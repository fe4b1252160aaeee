--[[
  Renew a node's lease. A lease is a counter, not a time, because a node trusts
  no clock but its own. A node that observes an unchanged counter for long enough
  fences its owner.

  KEYS[1]  leases      (hash): incarnation -> counter
  KEYS[2]  dead        (hash): incarnation -> time of its fencing, ms
  KEYS[3]  tokens      (string): the key that authenticates resume tokens
  KEYS[4]  seen        (string): a sequence number that no channel has exceeded
  KEYS[5]  schema      (string): version of the data, written again after a loss

  ARGV[1] node      incarnation
  ARGV[2] is_new    '1' to begin the lease, '0' to renew it
  ARGV[3] own_key   the key for tokens that this node uses. It becomes the cluster's
                    if Redis has none: tokens stay valid after a loss of data
  ARGV[4] seen_seq  highest sequence number that the node knows
  ARGV[5] schema    that this node knows

  Returns  two flat lists of pairs: all leases with their counters, and all dead
           nodes with the ms since their fencing; the key for tokens; the run id
           of this Redis process; and the highest sequence number that any node
           knows, which is at least the time in microseconds.
  Errors   SWEPT  the lease does not exist: the node was fenced, or Redis has lost
                  its data. The node has to take a new incarnation.
]]
local leases_key, dead_key, tokens_key, seen_key, schema_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local node, is_new, own_key, seen_seq, schema = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local dead = redis.call('HGETALL', dead_key)
local key = redis.call('GET', tokens_key)
redis.call('GET', schema_key)
local now_us = time[1] * 1000000 + time[2]
local seen = string.format('%.0f', math.max(now_us, seen_seq, tonumber(redis.call('GET', seen_key) or 0)))
for i = 2, #dead, 2 do
  dead[i] = string.format('%.0f', now_ms - dead[i])
end
if is_new == '0' and redis.call('HEXISTS', leases_key, node) == 0 then
  return redis.error_reply('SWEPT the lease of this node is gone')
end
-- Redis refuses HINCRBY when its memory is full, unless another write precedes it
-- in the script. Leases must be renewed then, because sweeps free memory.
redis.call('HDEL', leases_key, '')
redis.call('HINCRBY', leases_key, node, 1)
if not key then
  redis.call('SET', tokens_key, own_key)
end
redis.call('SET', seen_key, seen)
redis.call('SET', schema_key, schema, 'NX')
return { redis.call('HGETALL', leases_key), dead, key or own_key, run_id, seen }
