// The stock browser client, pusher-js, as Node loads it (its Node build can
// decrypt encrypted channels too).
//
//   node pusher_js.js HOST PORT KEY
//
// Environment: APP_SECRET signs subscriptions to private and encrypted
// channels, as an application's auth endpoint would; ENCRYPTION_MASTER_KEY
// (32 bytes in base64) also yields the secret of encrypted channels.
//
// Commands                                    Reports
//   {"cmd":"subscribe","channel":C}             {"type":"state","previous":S,"current":S,"socket_id":ID|null}
//   {"cmd":"unsubscribe","channel":C}           {"type":"event","channel":C,"event":E,"data":D}
//   {"cmd":"bind_all"}                          {"type":"all","event":E,"data":D}       after bind_all
//   {"cmd":"disconnect"} {"cmd":"connect"}      {"type":"error","error":E}
//
// Events are those of the channel as an application sees them, among them
// `pusher:subscription_succeeded`; `data` is what pusher-js passes on: parsed
// JSON where the data was JSON.

import PusherJs from "pusher-js";
import PusherServer from "pusher";
import { print, serveCommands } from "./json_lines.js";

const [host, port, key] = process.argv.slice(2);
if (!key) {
  console.error("usage: pusher_js.js HOST PORT KEY");
  process.exit(2);
}

// Pusher's own server library signs, so that neither side of the signature is ours.
const authEndpoint = new PusherServer({
  appId: "0",
  key,
  secret: process.env.APP_SECRET ?? "",
  ...(process.env.ENCRYPTION_MASTER_KEY && {
    encryptionMasterKeyBase64: process.env.ENCRYPTION_MASTER_KEY,
  }),
});

const pusher = new PusherJs(key, {
  wsHost: host,
  wsPort: Number(port),
  cluster: "",
  forceTLS: false,
  enableStats: false,
  enabledTransports: ["ws"],
  channelAuthorization: {
    customHandler({ socketId, channelName }, callback) {
      try {
        callback(null, authEndpoint.authorizeChannel(socketId, channelName));
      } catch (error) {
        callback(error, null);
      }
    },
  },
});

pusher.connection.bind("state_change", ({ previous, current }) => {
  print({ type: "state", previous, current, socket_id: pusher.connection.socket_id ?? null });
});
pusher.connection.bind("error", (error) => print({ type: "error", error }));

await serveCommands({
  subscribe({ channel }) {
    const known = pusher.channel(channel);
    const subscribed = pusher.subscribe(channel);
    // The same object comes back for a channel that is subscribed already.
    if (known !== subscribed) {
      subscribed.bind_global((event, data) => print({ type: "event", channel, event, data: data ?? null }));
    }
  },
  unsubscribe({ channel }) {
    pusher.unsubscribe(channel);
  },
  bind_all() {
    pusher.bind_global((event, data) => print({ type: "all", event, data: data ?? null }));
  },
  disconnect() {
    pusher.disconnect();
  },
  connect() {
    pusher.connect();
  },
});
