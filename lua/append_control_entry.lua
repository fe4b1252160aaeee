--[[
  Append one control entry, which is in no chain: a client event, or the
  termination of a user's connections.

  KEYS[1]  head      of the channel (hash)
  KEYS[2]  log       history of the channel (list)
  KEYS[3]  outbox    of the app in this partition (stream)
  KEYS[4]  apps      of this partition with webhook events (sorted set)
  KEYS[5]  consumer  of the outboxes (hash)

  ARGV[1..7]        as in include/append.lua
  ARGV[8]  kind        of the entry
  ARGV[9]  body        opaque
  ARGV[10] channel_id  of the channel, if a webhook subscribes to client events;
                       otherwise ''
  ARGV[11] outbox_max

  Returns  nothing.
  Errors   none of its own.
]]
local kind, body, channel_id = tonumber(ARGV[8]), ARGV[9], ARGV[10]
local webhooks = {
  channel_id = channel_id,
  outbox_max = ARGV[11],
  outbox_key = KEYS[3],
  apps_key = KEYS[4],
  consumer_key = KEYS[5],
}

local channel = read_channel(KEYS[1], KEYS[2])
check_webhooks(webhooks)
append_entry(channel, kind, 1, body)
if channel_id ~= '' then
  notify(webhooks, 'client_event', 'event', body)
end
publish_entry(channel)
