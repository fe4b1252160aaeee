--[[
  Append a webhook event to its app's outbox, or schedule a transition that is
  checked later. Both enter the app in the index of apps that their consumer reads.
  A full outbox drops the event and counts it for the consumer.

  `webhooks` has channel_id, outbox_max and the keys outbox_key, apps_key,
  consumer_key and, to schedule, due_key. `event` is the event type of a webhook,
  followed by its fields other than app and channel.
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

local function check_webhooks(webhooks)
  redis.call('XLEN', webhooks.outbox_key)
  redis.call('ZCARD', webhooks.apps_key)
  redis.call('HLEN', webhooks.consumer_key)
  if webhooks.due_key then
    redis.call('ZCARD', webhooks.due_key)
  end
end

-- Keeps an earlier time.
local function read_at(webhooks, at_ms)
  redis.call('ZADD', webhooks.apps_key, 'LT', number(at_ms), string.match(webhooks.channel_id, '^[^:]*'))
end

local function notify(webhooks, event, ...)
  if redis.call('XLEN', webhooks.outbox_key) >= tonumber(webhooks.outbox_max) then
    local app = string.match(webhooks.channel_id, '^[^:]*')
    redis.call('HINCRBY', webhooks.consumer_key, 'dropped ' .. app, 1)
  else
    redis.call('XADD', webhooks.outbox_key, '*', 'address', webhooks.channel_id, 'what', event, ...)
    -- An outbox without a new event expires like the head of a channel.
    redis.call('PEXPIRE', webhooks.outbox_key, ARGV[6])
    read_at(webhooks, now_ms)
  end
end

local function schedule(webhooks, at_ms, transition)
  redis.call('ZADD', webhooks.due_key, number(at_ms), transition)
  read_at(webhooks, at_ms)
end
