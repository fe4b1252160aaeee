--[[
  Read the last event of a cache channel, unless it has expired.

  KEYS[1]  head  of the channel (hash)

  ARGV     none

  Returns  the event, its sequence number, its time (ms) and the ms until it
           expires; or nothing.
  Errors   none of its own.
]]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('HMGET', KEYS[1], 'last', 'last_seq', 'last_at', 'last_until')
local ttl_ms = (tonumber(last[4]) or 0) - now_ms
if not last[1] or ttl_ms <= 0 then
  return {}
end
last[4] = string.format('%.0f', ttl_ms)
return last
