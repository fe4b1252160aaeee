--[[
  Replace the settings of an app, unless they have changed since the caller has
  read them, and notify all nodes.

  KEYS[1]  apps  (hash): id -> settings, TOML

  ARGV[1]  topic   on which nodes receive the ids of changed apps
  ARGV[2]  id
  ARGV[3]  before  settings that the caller has read
  ARGV[4]  after   new settings, with the same id and key

  Returns  1
  Errors   CHANGED  the current settings differ from `before`
]]
local apps_key = KEYS[1]
local topic, id, before, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if redis.call('HGET', apps_key, id) ~= before then
  return redis.error_reply('CHANGED the app was changed by somebody else')
end
redis.call('HSET', apps_key, id, after)
redis.call('PUBLISH', topic, id)
return 1
