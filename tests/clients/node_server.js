// Pusher's server library for Node, as a backend uses it.
//
//   node node_server.js HOST PORT APP_ID KEY SECRET
//
// Environment: ENCRYPTION_MASTER_KEY (32 bytes in base64), where events go to
// encrypted channels.
//
// Commands, each answered in order by one report
//   {"cmd":"trigger","channels":C|[C…],"event":E,"data":D,"params":{"socket_id":…,"info":…}?}
//   {"cmd":"triggerBatch","batch":[{"channel":C,"name":E,"data":D,"info":…?,"socket_id":…?}…]}
//   {"cmd":"sendToUser","user":ID,"event":E,"data":D}
//   {"cmd":"terminateUserConnections","user":ID,"encode":true?}    encode: encodeURIComponent(ID)
//   {"cmd":"get","path":"/channels/C","params":{"info":…}?}
// Reports
//   {"type":"result","cmd":…,"status":200,"body":…}
//   {"type":"failed","cmd":…,"status":400|null,"body":…|null,"error":"…"}
// where `body` is the parsed JSON, and null status means that the library
// itself refused, or had no answer.

import Pusher from "pusher";
import { print, serveCommands } from "./json_lines.js";

const [host, port, appId, key, secret] = process.argv.slice(2);
if (!secret) {
  console.error("usage: node_server.js HOST PORT APP_ID KEY SECRET");
  process.exit(2);
}

const pusher = new Pusher({
  host,
  port,
  appId,
  key,
  secret,
  useTLS: false,
  timeout: 30_000,
  ...(process.env.ENCRYPTION_MASTER_KEY && {
    encryptionMasterKeyBase64: process.env.ENCRYPTION_MASTER_KEY,
  }),
});

async function answer(cmd, request) {
  try {
    const response = await request();
    print({ type: "result", cmd, status: response.status, body: await response.json() });
  } catch (error) {
    print({
      type: "failed",
      cmd,
      status: error.status ?? null,
      body: parsed(error.body),
      error: [error.message, error.error?.message].filter(Boolean).join(": "),
    });
  }
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    return body ?? null;
  }
}

await serveCommands({
  trigger: ({ cmd, channels, event, data, params }) =>
    answer(cmd, () => pusher.trigger(channels, event, data, params)),
  triggerBatch: ({ cmd, batch }) => answer(cmd, () => pusher.triggerBatch(batch)),
  sendToUser: ({ cmd, user, event, data }) => answer(cmd, () => pusher.sendToUser(user, event, data)),
  // The library puts the id into a path as it is.
  terminateUserConnections: ({ cmd, user, encode }) =>
    answer(cmd, () => pusher.terminateUserConnections(encode ? encodeURIComponent(user) : user)),
  get: ({ cmd, path, params }) => answer(cmd, () => pusher.get({ path, params: params ?? {} })),
});
