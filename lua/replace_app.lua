--[[
  Change the settings of an app, unless somebody else has changed them since they
  were read, and tell all nodes.

  KEYS[1]  apps  (hash): id -> settings, TOML

  ARGV[1]  topic   where nodes hear of changed apps
  ARGV[2]  id
  ARGV[3]  before  the settings as they were read
  ARGV[4]  after   the new ones, with the same id and key

  Returns  1
  Errors   CHANGED  these are not its settings any more
]]
local apps_key = KEYS[1]
local topic, id, before, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if redis.call('HGET', apps_key, id) ~= before then
  return redis.error_reply('CHANGED the app was changed by somebody else')
end
redis.call('HSET', apps_key, id, after)
redis.call('PUBLISH', topic, id)
return 1
