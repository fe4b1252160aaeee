--[[
  Keep the newest event of each of a channel's chains, for who joins later.

  A channel's bases (hash) has for each key the number (8 bytes) and the time (ms,
  8 bytes) of the newest event of that chain, and the event as it stands in a run;
  its base_order (sorted set) has the keys by that number. Both live as long as
  the head that they were written with.

  What is to be kept of a run stands at the end of a text: how many chains the
  channel may have (4 bytes), then for each base its place in the run (from 0),
  where it begins in the body (from 0), its bytes (4 bytes each), the length of its
  key (2 bytes) and the key. Of more chains those that were silent longest are
  dropped.
]]
local function read_bases(bases_key, order_key, kept, kept_at)
  redis.call('HLEN', bases_key)
  redis.call('ZCARD', order_key)
  return { key = bases_key, order_key = order_key, kept = kept, kept_at = kept_at }
end

-- Lua cannot unpack a list of any length.
local function write_pairs(command, key, pairs)
  local page_size = 1000
  for from = 1, #pairs, page_size do
    redis.call(command, key, unpack(pairs, from, math.min(#pairs, from + page_size - 1)))
  end
end

-- After the run was announced: that is a write which a full Redis refuses.
local function keep_bases(channel, bases)
  local keys_max, at = struct.unpack('>I4', bases.kept, bases.kept_at)
  local first_seq = channel.seq - channel.count + 1
  local events, order = {}, {}
  while at <= #bases.kept do
    local index, start, bytes, key
    index, start, bytes, key, at = struct.unpack('>I4I4I4I2c0', bases.kept, at)
    local seq = first_seq + index
    events[#events + 1] = key
    events[#events + 1] = struct.pack('>I8I8', seq, now_ms) .. string.sub(channel.body, start + 1, start + bytes)
    order[#order + 1] = number(seq)
    order[#order + 1] = key
  end
  if channel.is_new then
    -- Those of an earlier epoch may be left.
    redis.call('DEL', bases.key, bases.order_key)
  end
  write_pairs('HSET', bases.key, events)
  write_pairs('ZADD', bases.order_key, order)
  local excess = redis.call('ZCARD', bases.order_key) - keys_max
  if excess > 0 then
    local silent = redis.call('ZPOPMIN', bases.order_key, excess)
    for i = 1, #silent, 2 do
      redis.call('HDEL', bases.key, silent[i])
    end
  end
  redis.call('PEXPIREAT', bases.key, channel.lives_until)
  redis.call('PEXPIREAT', bases.order_key, channel.lives_until)
end
