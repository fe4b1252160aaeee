// Pusher's server library for Node, used like by a backend.
//
//   node node_server.js HOST PORT APP_ID KEY SECRET
//
// Environment: ENCRYPTION_MASTER_KEY (32 bytes in base64), for events on encrypted
// channels.
//
// Commands, each with one report, in order
//   {"cmd":"trigger","channels":C|[C…],"event":E,"data":D,"params":{"socket_id":…,"info":…}?}
//   {"cmd":"triggerBatch","batch":[{"channel":C,"name":E,"data":D,"info":…?,"socket_id":…?}…]}
//   {"cmd":"sendToUser","user":ID,"event":E,"data":D}
//   {"cmd":"terminateUserConnections","user":ID,"encode":true?}    encode: encodeURIComponent(ID)
//   {"cmd":"get","path":"/channels/C","params":{"info":…}?}
// Reports
//   {"type":"result","cmd":…,"status":200,"body":…}
//   {"type":"failed","cmd":…,"status":400|null,"body":…|null,"error":"…"}
// `body` is the parsed JSON. A null status means that the library failed before the
// request, or received no response.

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

async function respond(cmd, request) {
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
    respond(cmd, () => pusher.trigger(channels, event, data, params)),
  triggerBatch: ({ cmd, batch }) => respond(cmd, () => pusher.triggerBatch(batch)),
  sendToUser: ({ cmd, user, event, data }) => respond(cmd, () => pusher.sendToUser(user, event, data)),
  // The library does not encode the id in the path.
  terminateUserConnections: ({ cmd, user, encode }) =>
    respond(cmd, () => pusher.terminateUserConnections(encode ? encodeURIComponent(user) : user)),
  get: ({ cmd, path, params }) => respond(cmd, () => pusher.get({ path, params: params ?? {} })),
});
