--[[
  Switch deltas on or off on a channel, because of what they save there, and
  announce it. Several nodes may come to the same verdict: the first one is
  announced. A channel that has never said anything, or was forgotten, has them on.

  KEYS[1]  head  of the channel (hash)
  KEYS[2]  log   of the channel (list)

  ARGV[1..6]      as in include/append.lua
  ARGV[7]  state  'on' or 'off'

  Returns  whether that has changed anything (1 or 0).
  Errors   none of its own.
]]
local head_key, log_key = KEYS[1], KEYS[2]
local state = ARGV[7]
local DELTAS = 7

local channel = read_channel(head_key, log_key)
if not channel.epoch or channel.has_deltas == (state == 'on') then
  return 0
end
append_entry(channel, DELTAS, 1, state == 'on' and '\1' or '\0')
if state == 'on' then
  redis.call('HDEL', head_key, 'deltas')
else
  redis.call('HSET', head_key, 'deltas', 'off')
end
publish_entry(channel)
return 1
