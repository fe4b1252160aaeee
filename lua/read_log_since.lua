--[[
  What was announced on a channel after a number that a client has seen, and a
  bounded part of what came before it: there are the bases that the client holds.

  Clients see the low 31 bits of a number. Which one is meant is told by the head:
  the newest that has these.

  KEYS[1]  head  of the channel (hash)
  KEYS[2]  log   of the channel (list)

  ARGV[1]  seen        the low 31 bits of the number
  ARGV[2]  before_max  entries before the one that has the number

  Returns  epoch, seq, id and time of the head (nil if there is none), then the
           entries, oldest first; all that the log has if it begins after
           the number.
  Errors   none of its own.
]]
local head_key, log_key = KEYS[1], KEYS[2]
local seen, before_max = tonumber(ARGV[1]), tonumber(ARGV[2])

local reply = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time')
local length = redis.call('LLEN', log_key)
if not reply[2] then
  return reply
end
local head_seq = tonumber(reply[2])
local seq = head_seq - (head_seq - seen) % 2 ^ 31

-- Numbers only grow along the log, and stand at bytes 11 to 18 of an entry
-- (src/entry.rs): halve until the first one above `seq` is left.
local from, to = 0, length
while from < to do
  local middle = math.floor((from + to) / 2)
  local first_seq = struct.unpack('>I8', redis.call('LINDEX', log_key, middle), 11)
  if first_seq <= seq then
    from = middle + 1
  else
    to = middle
  end
end
for i, entry in ipairs(redis.call('LRANGE', log_key, math.max(0, from - 1 - before_max), -1)) do
  reply[4 + i] = entry
end
return reply
