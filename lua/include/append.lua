--[[
  Number and remember what is announced on a channel: the part that all scripts
  share which have something to say. What they announce is published at their
  end, when everything is written.

  Every such script has the same first arguments:

  ARGV[1]  id            8 bytes: names the operation and its entry
  ARGV[2]  seen_seq      the highest number the node has seen anywhere
  ARGV[3]  log_max       entries that a log keeps
  ARGV[4]  log_bytes_max
  ARGV[5]  log_age_ms    how far back a log reaches where the others let it
  ARGV[6]  head_idle_ms  a channel is forgotten after this long in silence

  A channel's head (hash) has epoch, seq, id and time (ms) of the last
  entry; offset, the bytes of all entries since there is a head;
  log_bytes, log_from (ms, since when the log is complete), aged (ms, when it was
  last trimmed by age); deltas, 'off' while they are switched off; and what
  scripts add to it.

  Redis hashes every byte of a string that it hands to Lua, so that an
  entry is as dear to read as to write. A log that is over a bound loses an
  eighth of its entries at once, and only the one that is the oldest then
  is read: its header has its offset, and so tells the bytes that are left.
]]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

-- As text: Lua would write 16 digits as 1.7e+15. Redis writes the numbers that a
-- command is given in full.
local function number(value)
  return string.format('%.0f', value)
end

local function read_channel(head_key, log_key)
  local head = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time', 'log_bytes', 'log_from', 'aged',
    'resent', 'last_until', 'deltas', 'offset')
  local length = redis.call('LLEN', log_key)
  return {
    head_key = head_key,
    log_key = log_key,
    epoch = tonumber(head[1]),
    seq = tonumber(head[2]),
    id = head[3],
    time = tonumber(head[4]),
    -- A log expires before its head: then nothing was announced since `time`.
    log_bytes = length > 0 and tonumber(head[5]) or 0,
    log_from = length > 0 and tonumber(head[6]) or tonumber(head[4]),
    aged = tonumber(head[7]),
    resent = head[8] or '',
    last_until = tonumber(head[9]) or 0,
    has_deltas = head[10] ~= 'off',
    offset = tonumber(head[11]),
  }
end

-- Where the channel stands, as scripts return it.
local function position(channel)
  if not channel.epoch then
    return {}
  end
  return { number(channel.epoch), number(channel.seq), channel.id, number(channel.time) }
end

-- By age only as much goes as leaves one that is too old: the log reaches back as
-- long as it shall. That is looked at now and then. Returns whether `log_from` or
-- `aged` has changed.
local function trim_log(channel, length)
  local log_max, log_bytes_max, log_age_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local is_due = now_ms - channel.aged > log_age_ms / 4
  local has_changed = is_due
  while length > 1 do
    local is_over = length > log_max or channel.log_bytes > log_bytes_max
    if not is_over and not is_due then
      break
    end
    local dropped = math.ceil(length / 8)
    local oldest = redis.call('LINDEX', channel.log_key, dropped)
    local time, offset = struct.unpack('>I8I8', oldest, 23)
    if not is_over and time >= now_ms - log_age_ms then
      break
    end
    redis.call('LTRIM', channel.log_key, dropped, -1)
    length, channel.log_bytes = length - dropped, channel.offset - offset
    channel.log_from, has_changed = math.max(channel.log_from, time), true
  end
  if is_due then
    channel.aged = now_ms
  end
  return has_changed
end

-- The first write is one that Redis refuses when its memory is full.
local function append_entry(channel, kind, count, body)
  local id, seen_seq = ARGV[1], tonumber(ARGV[2])
  local is_new = not channel.epoch
  if is_new then
    channel.epoch = math.max(now_us, seen_seq)
    channel.seq, channel.id = channel.epoch, string.rep('\0', 8)
    channel.offset, channel.log_bytes, channel.log_from, channel.aged = 0, 0, now_ms, now_ms
  end
  channel.entry = struct.pack('>BBI8I8I4I8I8', 1, kind, channel.epoch, channel.seq + 1, count, now_ms,
    channel.offset) .. id .. channel.id .. body
  channel.offset = channel.offset + #channel.entry
  channel.log_bytes = channel.log_bytes + #channel.entry
  channel.seq, channel.id, channel.time = channel.seq + count, id, now_ms

  local length = redis.call('RPUSH', channel.log_key, channel.entry)
  if is_new then
    -- The log of an earlier epoch may be left.
    redis.call('LTRIM', channel.log_key, -1, -1)
    length = 1
  end
  -- What seldom changes is seldom written.
  if trim_log(channel, length) or length == 1 then
    redis.call('HSET', channel.head_key, 'epoch', channel.epoch, 'log_from', channel.log_from, 'aged', channel.aged)
  end
  redis.call('HSET', channel.head_key, 'seq', channel.seq, 'id', id, 'time', now_ms, 'offset', channel.offset,
    'log_bytes', channel.log_bytes)
  channel.is_new, channel.lives_until = is_new, math.max(now_ms + tonumber(ARGV[6]), channel.last_until)
  -- A moment: Redis reads its clock anew for a time from now.
  redis.call('PEXPIREAT', channel.head_key, channel.lives_until)
  redis.call('PEXPIRE', channel.log_key, ARGV[5])
end

-- Where a channel's nodes listen has the name of its log.
local function publish_entry(channel)
  if channel.entry then
    redis.call('PUBLISH', channel.log_key, channel.entry)
  end
end
