--[[
  Enable or disable deltas on a channel, and append an entry. Several nodes may
  decide so at the same time: only the first call appends. A channel without
  a head has deltas enabled.

  KEYS[1]  head  of the channel (hash)
  KEYS[2]  log   history of the channel (list)

  ARGV[1..7]      as in include/append.lua
  ARGV[8]  state  'on' or 'off'

  Returns  whether the call has changed the state (1 or 0).
  Errors   none of its own.
]]
local head_key, log_key = KEYS[1], KEYS[2]
local state = ARGV[8]
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
