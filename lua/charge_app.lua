--[[
  Charge an app for something that has no script of its own.

  KEYS[1]  rate  of the app (string)

  ARGV[1]  cost
  ARGV[2]  limit      of the window
  ARGV[3]  window_ms

  Returns  whether it was charged (1 or 0), what is used, ms until the window ends.
  Errors   none of its own.
]]
local can_pay, used, reset_ms = charge(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
return { can_pay and 1 or 0, used, reset_ms }
