--[[
  Charge an app's rate limit for an operation that has no script of its own.

  KEYS[1]  rate  window of the app (string)

  ARGV[1]  cost
  ARGV[2]  limit      of the window
  ARGV[3]  window_ms

  Returns  whether the cost was charged (1 or 0), the use of the window, ms until
           the window ends.
  Errors   none of its own.
]]
local is_charged, used, reset_ms = charge(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
return { is_charged and 1 or 0, used, reset_ms }
