--[[
  Find the index of an entry in a channel's history.

  The id is in bytes 39 to 46 of an entry (src/entry.rs). Pages are read from the
  newest to the oldest, because most searches are for recent entries.

  Returns  its index, counted from 0, or nil.
]]
local function find_entry(log_key, id)
  local page_size = 64
  local to = redis.call('LLEN', log_key) - 1
  while to >= 0 do
    local from = math.max(0, to - page_size + 1)
    local page = redis.call('LRANGE', log_key, from, to)
    for i = #page, 1, -1 do
      if string.sub(page[i], 39, 46) == id then
        return from + i - 1
      end
    end
    to = from - 1
  end
  return nil
end
