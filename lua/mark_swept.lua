--[[
  Refuse further membership updates of a dead node in a partition. Some may still be
  on their way, in the buffers of a broken connection.

  KEYS[1]  swept   (string): present while the updates of the node are refused

  ARGV[1]  ttl_ms  longer than an update can be late

  Returns  OK.
  Errors   none of its own.
]]
local swept_key = KEYS[1]
local ttl_ms = ARGV[1]

redis.call('GET', swept_key)
-- Redis refuses SET when its memory is full, unless another write precedes it in
-- the script. Sweeps free memory.
redis.call('DEL', swept_key)
return redis.call('SET', swept_key, '1', 'PX', ttl_ms)
