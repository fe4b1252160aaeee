--[[
  Append a webhook event to the partition's outbox. A full outbox drops the event
  and counts it for its consumer.

  `event` is the event type of a webhook, followed by its fields other than app
  and channel.
]]
local EVENT_BITS = {
  channel_occupied = 1,
  channel_vacated = 2,
  member_added = 4,
  member_removed = 8,
  client_event = 16,
  cache_miss = 32,
  subscription_count = 64,
}

local function is_hooked(hooked, event)
  return bit.band(hooked, EVENT_BITS[event]) ~= 0
end

local function check_outbox(outbox_key, consumer_key)
  redis.call('XLEN', outbox_key)
  redis.call('HLEN', consumer_key)
end

local function notify(outbox_key, consumer_key, outbox_max, channel_id, event, ...)
  if redis.call('XLEN', outbox_key) >= tonumber(outbox_max) then
    redis.call('HINCRBY', consumer_key, 'dropped', 1)
  else
    redis.call('XADD', outbox_key, '*', 'address', channel_id, 'what', event, ...)
  end
end
