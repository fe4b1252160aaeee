--[[
  Add a new app and notify all nodes, which may have cached that the app does not
  exist.

  A removed app leaves an empty string under its id. It does not prevent a new
  app with the same id.

  KEYS[1]  apps      (hash): id -> settings, TOML
  KEYS[2]  app_keys  (hash): key -> id

  ARGV[1]  topic     on which nodes receive the ids of changed apps
  ARGV[2]  id
  ARGV[3]  key
  ARGV[4]  settings

  Returns  1
  Errors   EXISTS     an app with this id exists
           KEY_TAKEN  another app has this key
]]
local apps_key, app_keys_key = KEYS[1], KEYS[2]
local topic, id, key, settings = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if (redis.call('HGET', apps_key, id) or '') ~= '' then
  return redis.error_reply('EXISTS there is an app of this id')
end
if redis.call('HEXISTS', app_keys_key, key) == 1 then
  return redis.error_reply('KEY_TAKEN another app has this key')
end
redis.call('HSET', apps_key, id, settings)
redis.call('HSET', app_keys_key, key, id)
redis.call('PUBLISH', topic, id)
return 1
