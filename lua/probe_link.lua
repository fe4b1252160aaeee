--[[
  Prove that a connection leads to a Redis that accepts writes.

  KEYS[1]  probe  (string): exists while its node runs. GET makes the write fail if
                  the key is of another type

  ARGV[1]  expiry_ms

  Returns  1.
  Errors   none of its own.
]]
local probe_key, expiry_ms = KEYS[1], ARGV[1]

redis.call('SET', probe_key, '1', 'PX', expiry_ms, 'GET')
return 1
