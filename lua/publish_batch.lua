--[[
  Number, remember and announce the events of one batch, all of them or none, so
  that every node sees one order. A batch touches each channel once: its events
  there are one run, with consecutive numbers, in one announcement.

  Redis does not roll back. So everything is read and checked first, the first
  write is one that Redis refuses when memory is full, and what others can see
  comes last.

  The log is also the memory of operations: an announcement's id is the id of
  the operation that made it. A resend looks for itself there, and is applied
  only if the log reaches back to when it was first sent. A resend that is
  applied leaves its id in the head, for the case that the first attempt is
  still on its way.

  KEYS[3i-2]  head  of channel i (hash): epoch, seq, id and time (ms) of the last
                    announcement; log_bytes, log_from (ms, since when the log is
                    complete), aged (ms, when it was last trimmed by age), resent
                    (ids)
  KEYS[3i-1]  log   of channel i (list): the announcements, oldest first
  KEYS[3i]    subs  of channel i (hash): subscriptions by node, and `total`

  ARGV[1]     id            8 bytes: names the operation and its announcements
  ARGV[2]     sent_ago_ms   of the first attempt, for a resend; '' for the first
  ARGV[3]     seen_seq      the highest number the node has seen anywhere
  ARGV[4]     log_max       announcements that a log keeps
  ARGV[5]     log_bytes_max
  ARGV[6]     log_age_ms
  ARGV[7]     head_idle_ms  a channel is forgotten after this long in silence
  then for each channel i, four:
    topic     where its nodes listen
    count     number of events
    wants     '1' if the number of subscriptions is wanted
    body      the events, opaque

  Returns  for each channel its subscriptions, or -1 where not wanted.
  Errors   UNKNOWN  a resend that cannot tell whether it was applied.
]]
local id, sent_ago_ms, seen_seq = ARGV[1], ARGV[2], tonumber(ARGV[3])
local log_max, log_bytes_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local log_age_ms, head_idle_ms = tonumber(ARGV[6]), ARGV[7]
local nothing = string.rep('\0', 8)

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function number(value)
  -- Lua would write 16 digits as 1.7e+15.
  return string.format('%.0f', value)
end

local function includes(ids, wanted)
  for at = 1, #ids, 8 do
    if string.sub(ids, at, at + 7) == wanted then
      return true
    end
  end
  return false
end

-- Read and check everything.
local channels, counts = {}, {}
for i = 1, #KEYS / 3 do
  local head_key, log_key, subs_key = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local head = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'log_bytes', 'log_from', 'aged', 'resent', 'time')
  local length = redis.call('LLEN', log_key)
  counts[i] = -1
  if ARGV[4 * i + 6] == '1' then
    counts[i] = tonumber(redis.call('HGET', subs_key, 'total') or 0)
  end
  channels[i] = {
    head_key = head_key,
    log_key = log_key,
    topic = ARGV[4 * i + 4],
    count = tonumber(ARGV[4 * i + 5]),
    body = ARGV[4 * i + 7],
    epoch = tonumber(head[1]),
    seq = tonumber(head[2]),
    id = head[3],
    -- A log expires before its head: then nothing was announced since `time`.
    log_bytes = length > 0 and tonumber(head[4]) or 0,
    log_from = length > 0 and tonumber(head[5]) or tonumber(head[8]),
    aged = tonumber(head[6]),
    resent = head[7] or '',
  }
end

local first = channels[1]
if includes(first.resent, id) then
  return counts
end
if sent_ago_ms ~= '' then
  if find_announcement(first.log_key, id) then
    return counts
  end
  if not first.epoch or first.log_from > now_ms - tonumber(sent_ago_ms) then
    return redis.error_reply('UNKNOWN the log does not reach back to when this was first sent')
  end
  first.resent = string.sub(first.resent .. id, -256)
end

-- Write.
for _, channel in ipairs(channels) do
  local is_new = not channel.epoch
  if is_new then
    channel.epoch = math.max(now_us, seen_seq)
    channel.seq, channel.id = channel.epoch, nothing
    channel.log_bytes, channel.log_from, channel.aged = 0, now_ms, now_ms
  end
  channel.announcement = struct.pack('>BBI8I8I4I8', 1, 1, channel.epoch, channel.seq + 1, channel.count, now_ms)
    .. id .. channel.id .. channel.body
  channel.log_bytes = channel.log_bytes + #channel.announcement

  redis.call('HSET', channel.head_key, 'epoch', number(channel.epoch),
    'seq', number(channel.seq + channel.count), 'id', id, 'time', number(now_ms))
  if is_new then
    redis.call('DEL', channel.log_key)
  end
  local length = redis.call('RPUSH', channel.log_key, channel.announcement)

  local is_due = now_ms - channel.aged > log_age_ms / 4
  local function is_over()
    if length > log_max or channel.log_bytes > log_bytes_max then
      return true
    end
    -- Looked at now and then only: it reads a whole announcement.
    local oldest = is_due and redis.call('LINDEX', channel.log_key, 0)
    return oldest and struct.unpack('>I8', oldest, 23) < now_ms - log_age_ms
  end
  while length > 1 and is_over() do
    local oldest = redis.call('LPOP', channel.log_key)
    length, channel.log_bytes = length - 1, channel.log_bytes - #oldest
    channel.log_from = math.max(channel.log_from, (struct.unpack('>I8', oldest, 23)))
  end
  if is_due then
    channel.aged = now_ms
  end

  redis.call('HSET', channel.head_key, 'log_bytes', number(channel.log_bytes),
    'log_from', number(channel.log_from), 'aged', number(channel.aged))
  if channel.resent ~= '' then
    redis.call('HSET', channel.head_key, 'resent', channel.resent)
  end
  redis.call('PEXPIRE', channel.head_key, head_idle_ms)
  redis.call('PEXPIRE', channel.log_key, log_age_ms)
end

-- Announce.
for _, channel in ipairs(channels) do
  redis.call('PUBLISH', channel.topic, channel.announcement)
end
return counts
