--[[
  Append one control entry, which is in no chain: a client event, or the
  termination of a user's connections.

  KEYS[1]  head      of the channel (hash)
  KEYS[2]  log       history of the channel (list)
  KEYS[3]  outbox    of the partition (stream)
  KEYS[4]  consumer  of the outbox (hash)

  ARGV[1..6]        as in include/append.lua
  ARGV[7]  kind        of the entry
  ARGV[8]  body        opaque
  ARGV[9]  channel_id  of the channel, if a webhook subscribes to client events;
                       otherwise ''
  ARGV[10] outbox_max

  Returns  nothing.
  Errors   none of its own.
]]
local kind, body, channel_id, outbox_max = tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
local outbox_key, consumer_key = KEYS[3], KEYS[4]

local channel = read_channel(KEYS[1], KEYS[2])
check_outbox(outbox_key, consumer_key)
append_entry(channel, kind, 1, body)
if channel_id ~= '' then
  notify(outbox_key, consumer_key, outbox_max, channel_id, 'client_event', 'event', body)
end
publish_entry(channel)
