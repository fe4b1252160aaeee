--[[
  Read a channel's history after the last entry that a node has handled, or the
  whole history if it no longer has that entry.

  KEYS[1]  head  of the channel (hash)
  KEYS[2]  log   history of the channel (list)

  ARGV[1]  after  id, 8 bytes

  Returns  epoch, seq, id and time of the head (nil if there is none), then the
           entries, oldest first.
  Errors   none of its own.
]]
local head_key, log_key = KEYS[1], KEYS[2]
local after = ARGV[1]

local reply = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time')
local found = find_entry(log_key, after)
local from = found and found + 1 or 0
for i, entry in ipairs(redis.call('LRANGE', log_key, from, -1)) do
  reply[4 + i] = entry
end
return reply
