--[[
  Check a due transition, and report it if it still holds: a channel that is still
  vacated, a member that has not returned, a count that has changed since the last
  count entry.

  KEYS[1]  head      of the channel (hash)
  KEYS[2]  log       history of the channel (list)
  KEYS[3]  subs      of the channel (hash)
  KEYS[4]  users     of the channel (hash)
  KEYS[5]  outbox    of the app in this partition (stream)
  KEYS[6]  due       of the app in this partition (sorted set)
  KEYS[7]  apps      of this partition with webhook events (sorted set)
  KEYS[8]  consumer  of the outboxes (hash)

  ARGV[1..7]       as in include/append.lua
  ARGV[8]  transition  member of the sorted set: `vacated <channel_id>`,
                   `count <channel_id>` or `removed <channel_id> <user>`
  ARGV[9]  outbox_max

  Returns  nothing.
  Errors   none of its own.
]]
local transition = ARGV[8]
local kind, channel_id, user = string.match(transition, '^(%S+) (%S+) ?(.*)$')
local subs_key, users_key = KEYS[3], KEYS[4]
local webhooks = {
  channel_id = channel_id,
  outbox_max = ARGV[9],
  outbox_key = KEYS[5],
  due_key = KEYS[6],
  apps_key = KEYS[7],
  consumer_key = KEYS[8],
}

local channel = read_channel(KEYS[1], KEYS[2])
check_webhooks(webhooks)
redis.call('HLEN', users_key)
local fields = redis.call('HMGET', subs_key, 'total', 'rules')
local total = tonumber(fields[1] or 0)
if redis.call('ZREM', webhooks.due_key, transition) == 0 then
  return
end
if kind == 'vacated' then
  if total == 0 then
    notify(webhooks, 'channel_vacated')
  end
elseif kind == 'removed' then
  if redis.call('HEXISTS', users_key, user) == 0 then
    notify(webhooks, 'member_removed', 'user', user)
  end
elseif kind == 'count' and total > 0 then
  local hooked, sends = string.match(fields[2] or '0 0', '^(%d+) (%d+)$')
  redis.call('HSET', subs_key, 'told_at', number(now_ms))
  if bit.band(tonumber(sends), 1) ~= 0 then
    append_count(channel, total)
  end
  if is_hooked(tonumber(hooked), 'subscription_count') then
    notify(webhooks, 'subscription_count', 'count', total)
  end
end
publish_entry(channel)
