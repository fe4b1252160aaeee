--[[
  Charge an app: a window begins with the first charge and ends by itself.

  Returns  whether it was charged, what is used of the window, and the ms until
           the window ends. Nothing is written unless it is charged.
]]
local function charge(key, cost, limit, window_ms)
  local used = tonumber(redis.call('GET', key) or 0)
  local reset_ms = redis.call('PTTL', key)
  if reset_ms < 0 then
    used, reset_ms = 0, window_ms
  end
  if used + cost > limit then
    return false, used, reset_ms
  end
  redis.call('SET', key, used + cost, 'PX', reset_ms)
  return true, used + cost, reset_ms
end
