--[[
  Write a node's subscriptions to a channel without presence. The number is
  absolute, not a difference: repeating it changes nothing, and the next call
  corrects a lost or repeated one. The script appends the resulting entry in the
  same step: the count of the cluster, or on a user channel the online status.

  With a count of 0 the same script sweeps a dead node's membership.

  KEYS[1]  head      of the channel (hash)
  KEYS[2]  log       history of the channel (list)
  KEYS[3]  subs      of the channel (hash)
  KEYS[4]  channels  of the node in this partition (set): input of a sweep
  KEYS[5]  occupied  of the app in this partition (sorted set): channel names
  KEYS[6]  counts    of the app in this partition (hash): subscriptions and users
  KEYS[7]  outbox    of the app in this partition (stream)
  KEYS[8]  due       of the app in this partition (sorted set): transitions to check, by time
  KEYS[9]  apps      of this partition with webhook events (sorted set)
  KEYS[10] consumer  of the outboxes (hash)
  KEYS[11] swept     present if the memberships of the node were swept (string)

  ARGV[1..7]                 as in include/append.lua
  ARGV[8]  node             incarnation
  ARGV[9]  replaced         the previous incarnation of the node, whose number this one
                            replaces; '' if there is none
  ARGV[10] count            subscriptions of the node
  ARGV[11] channel_id       of the channel, a member of the set
  ARGV[12] rules            as in include/occupancy.lua; '' keeps the stored rules
  ARGV[13] wants_last       '1' to read the last event of a cache channel
  ARGV[14] outbox_max
  ARGV[15] grace_ms         delay of the channel_vacated webhook
  ARGV[16] unthrottled_max  above it, a count is sent once in each interval
  ARGV[17] interval_ms
  ARGV[18] occupied_max     occupied channels of the app in this partition, above
                            which another one is refused; 0 refuses none

  With the last subscription, a channel that has had no entries but counts loses its
  head and its history.

  Returns  the channel's position (epoch, seq, id, time; or nothing), the total,
           an empty list, the last event as include/occupancy.lua returns it,
           whether deltas are disabled (1 or 0), and whether the update is refused
           (1 or 0): it has written nothing then.
  Errors   SWEPT  the update was sent before the sweep of its node.
]]
local node, replaced, count, channel_id = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]
local rules, wants_last, grace_ms = ARGV[12], ARGV[13], tonumber(ARGV[15])
local unthrottled_max, interval_ms = tonumber(ARGV[16]), tonumber(ARGV[17])
local USER_STATUS = 5
local occupied_max = tonumber(ARGV[18])
local is_user = string.find(channel_id, ':#', 1, true) ~= nil
local channels_key = KEYS[4]
local index = { occupied_key = KEYS[5], counts_key = KEYS[6] }
local webhooks = {
  channel_id = channel_id,
  outbox_max = ARGV[14],
  outbox_key = KEYS[7],
  due_key = KEYS[8],
  apps_key = KEYS[9],
  consumer_key = KEYS[10],
}

local channel = read_channel(KEYS[1], KEYS[2])
local occupancy = read_occupancy(KEYS[3], node, replaced, rules)
if was_swept(KEYS[11], rules) then
  return redis.error_reply('SWEPT the memberships of this node were removed')
end
redis.call('SCARD', channels_key)
redis.call('HLEN', index.counts_key)
check_webhooks(webhooks)
if is_over_limit(occupancy, count, index.occupied_key, occupied_max) then
  return { position(channel), 0, {}, {}, 0, 1 }
end

write_occupancy(occupancy, count, 0, channels_key, channel_id)
local total, total_before = occupancy.total, occupancy.total_before

if is_user then
  local changes = (total > 0) ~= (total_before > 0)
  if changes and bit.band(occupancy.sends, SENDS_STATUS) ~= 0 then
    append_entry(channel, USER_STATUS, 1, total > 0 and '\1' or '\0')
  end
else
  write_index(occupancy, 0, index, webhooks, grace_ms)
  local sends_counts = bit.band(occupancy.sends, SENDS_COUNTS) ~= 0
  if total ~= total_before and (sends_counts or is_hooked(occupancy.hooked, 'subscription_count')) then
    -- In the future after the clock of Redis was set back.
    local sent_at = math.min(tonumber(occupancy.fields.told_at or 0), now_ms)
    if total > unthrottled_max and now_ms - sent_at < interval_ms then
      schedule(webhooks, sent_at + interval_ms, 'count ' .. channel_id)
    else
      redis.call('ZREM', webhooks.due_key, 'count ' .. channel_id)
      if total > unthrottled_max then
        redis.call('HSET', occupancy.subs_key, 'told_at', number(now_ms))
      end
      if sends_counts and total > 0 then
        append_count(channel, total)
      end
      if is_hooked(occupancy.hooked, 'subscription_count') then
        notify(webhooks, 'subscription_count', 'count', total)
      end
    end
  end
end

if total == 0 and channel.epoch and channel.last_until == 0 then
  local counts = tonumber(redis.call('HGET', channel.head_key, 'counts') or 0)
  if counts > 0 and counts == channel.seq - channel.epoch then
    redis.call('DEL', channel.head_key, channel.log_key)
  end
end

local last = wants_last == '1' and read_last(channel, occupancy, webhooks) or {}
publish_entry(channel)
return { position(channel), total, {}, last, channel.has_deltas and 0 or 1, 0 }
