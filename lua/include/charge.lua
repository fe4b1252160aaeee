--[[
  Charge an app: a window begins with the first charge and ends by itself.

  A cost of 0 only asks where it stands.

  Returns  whether it was charged, what is used of the window, and the ms until
           the window ends. Nothing is written unless it is charged.
]]
local function charge(key, cost, limit, window_ms)
  local used = tonumber(redis.call('GET', key) or 0)
  local reset_ms = redis.call('PTTL', key)
  -- At the very end of a window 0 ms are left, which SET does not take.
  if reset_ms <= 0 then
    used, reset_ms = 0, window_ms
  end
  if used + cost > limit then
    return false, used, reset_ms
  end
  if cost > 0 then
    redis.call('SET', key, used + cost, 'PX', reset_ms)
  end
  return true, used + cost, reset_ms
end
