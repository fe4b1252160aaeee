--[[
  Put something that a webhook wants to hear of into the partition's outbox. A
  full outbox drops it, and its consumer is told how many were.

  `what` is an event of a webhook, with the fields that it has beyond app and
  channel.
]]
local HOOKS = {
  channel_occupied = 1,
  channel_vacated = 2,
  member_added = 4,
  member_removed = 8,
  client_event = 16,
  cache_miss = 32,
  subscription_count = 64,
}

local function is_hooked(hooks, what)
  return bit.band(hooks, HOOKS[what]) ~= 0
end

local function check_outbox(outbox_key, consumer_key)
  redis.call('XLEN', outbox_key)
  redis.call('HLEN', consumer_key)
end

local function notify(outbox_key, consumer_key, outbox_max, channel_id, what, ...)
  if redis.call('XLEN', outbox_key) >= tonumber(outbox_max) then
    redis.call('HINCRBY', consumer_key, 'dropped', 1)
  else
    redis.call('XADD', outbox_key, '*', 'address', channel_id, 'what', what, ...)
  end
end
