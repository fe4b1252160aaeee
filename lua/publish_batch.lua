--[[
  Append the events of one batch, all of them or none (P1), in one order for all
  nodes (P2). A batch has one publication per channel: its events there have
  consecutive sequence numbers and are one entry.

  Redis does not roll back. So the script reads and checks everything first, its
  first write is one that Redis refuses when memory is full, and it publishes to
  the topics last.

  The history also deduplicates operations: an entry's id is the id of the
  operation that appended it. A resend searches the history for its id, and is
  applied only if the history reaches back to the first attempt. An applied
  resend stores its id in the head, because the first attempt may still arrive.

  KEYS[3i-2]  head  of channel i (hash), as in include/append.lua; resent, the ids of
                    applied resends, and resent_at, the time of the last one (ms);
                    of a cache channel last (the last event), last_seq,
                    last_at (ms) and last_until (ms)
  KEYS[3i-1]  log   history of channel i (list): the entries, oldest first
  KEYS[3i]    subs  of channel i (hash): subscriptions by node, and `total`
  KEYS[3n+1]  rate  window of the app (string), only with a rate limit
  then for each channel j with bases to store, in their order:
  KEYS[2j-1]  bases       of the channel (hash), as in include/keep_bases.lua
  KEYS[2j]    base_order  of the channel (sorted set)

  ARGV[1..7]            as in include/append.lua
  ARGV[8]  sent_ago_ms  age of the first attempt, for a resend; '' for the first
  ARGV[9]  cost         of the batch
  ARGV[10] limit        of the app's window
  ARGV[11] window_ms
  then for each channel i, two:
    descriptor  packed: the number of events (4 bytes); 1 if the caller requests
          the channel's counts, else 0 (1 byte); on a cache channel the bytes of
          the last event at the end of the body, else 0 (4 bytes), and its time to
          live in ms (8 bytes); then the bases to store, if there are any, as
          include/keep_bases.lua reads them
    body  the events, opaque

  Returns  whether the rate limit permitted the batch (1 or 0), the use of the
           window, the ms until it ends (0 and 0 without a charge, as for a resend
           that was applied already); then the subscriptions and the users of each
           channel whose counts are requested. A refused batch publishes nothing.
  Errors   UNKNOWN  a resend whose first attempt may have been applied.
]]
local id, sent_ago_ms = ARGV[1], ARGV[8]
local EVENTS = 1
-- Ids of 2,048 resends. A node has at most 256 publications of an app in flight.
local RESENT_BYTES_MAX = 16384

local function includes(ids, searched)
  local at = string.find(ids, searched, 1, true)
  while at and at % #searched ~= 1 do
    at = string.find(ids, searched, at + 1, true)
  end
  return at
end

-- Read and check everything.
local channel_count = (#ARGV - 11) / 2
local optional = 3 * channel_count
local rate_key = (#KEYS - optional) % 2 == 1 and KEYS[optional + 1]
if rate_key then
  optional = optional + 1
end
local channels, reply = {}, { 1, 0, 0 }
for i = 1, channel_count do
  local channel = read_channel(KEYS[3 * i - 2], KEYS[3 * i - 1])
  local descriptor, wants_counts, bases_at = ARGV[2 * i + 10]
  channel.body = ARGV[2 * i + 11]
  channel.count, wants_counts, channel.last_bytes, channel.ttl_ms, bases_at = struct.unpack('>I4BI4I8', descriptor)
  if bases_at <= #descriptor then
    channel.bases = read_bases(KEYS[optional + 1], KEYS[optional + 2], descriptor, bases_at)
    optional = optional + 2
  end
  if wants_counts == 1 then
    local counts = redis.call('HMGET', KEYS[3 * i], 'total', 'users')
    reply[#reply + 1], reply[#reply + 2] = tonumber(counts[1] or 0), tonumber(counts[2] or 0)
  end
  channels[i] = channel
end

-- Returns whether the rate limit permits the batch; a cost of 0 only reads the window.
local function charge_batch(cost)
  local is_charged = true
  if rate_key then
    is_charged, reply[2], reply[3] = charge(rate_key, cost, tonumber(ARGV[10]), tonumber(ARGV[11]))
    reply[1] = is_charged and 1 or 0
  end
  return is_charged
end

-- A first attempt that arrives later than the history reaches back is taken for a new batch.
local function forget_resent(channel)
  local resent_at = tonumber(redis.call('HGET', channel.head_key, 'resent_at') or 0)
  if now_ms - resent_at > tonumber(ARGV[5]) then
    redis.call('HDEL', channel.head_key, 'resent', 'resent_at')
  end
end

local first = channels[1]
if includes(first.resent, id) then
  charge_batch(0)
  return reply
end
local is_resend = sent_ago_ms ~= ''
if is_resend then
  if find_entry(first.log_key, id) then
    charge_batch(0)
    return reply
  end
  if not first.epoch or first.log_from > now_ms - tonumber(sent_ago_ms) then
    return redis.error_reply('UNKNOWN the log does not reach back to when this was first sent')
  end
end

-- Write.
if not charge_batch(tonumber(ARGV[9])) then
  return reply
end
for _, channel in ipairs(channels) do
  local last_bytes = channel.last_bytes
  if last_bytes > 0 then
    channel.last_until = now_ms + channel.ttl_ms
  end
  append_entry(channel, EVENTS, channel.count, channel.body)
  if last_bytes > 0 then
    redis.call('HSET', channel.head_key, 'last', string.sub(channel.body, -last_bytes), 'last_seq',
      number(channel.seq), 'last_at', number(now_ms), 'last_until', number(channel.last_until))
  end
  if channel.bases then
    keep_bases(channel, channel.bases)
  end
end
if is_resend then
  redis.call('HSET', first.head_key, 'resent', string.sub(first.resent .. id, -RESENT_BYTES_MAX), 'resent_at',
    number(now_ms))
elseif first.resent ~= '' then
  forget_resent(first)
end

-- Publish.
for _, channel in ipairs(channels) do
  publish_entry(channel)
end
return reply
