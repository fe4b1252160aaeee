--[[
  Charge an app's rate limit. A window begins with the first charge and expires
  by itself.

  A cost of 0 only reads the state of the window.

  Returns  whether the cost was charged, the use of the window, and the ms until
           the window ends. Without a charge, nothing is written.
]]
local function charge(key, cost, limit, window_ms)
  local used = tonumber(redis.call('GET', key) or 0)
  local reset_ms = redis.call('PTTL', key)
  -- PTTL is 0 in the last ms of a window, and SET rejects an expiry of 0. It exceeds
  -- the window after the clock of Redis was set back, or the window was shortened.
  if reset_ms <= 0 or reset_ms > window_ms then
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
