// Deltas and resume for pusher-js. Wraps received messages and sent subscriptions only;
// the rest of pusher-js is unchanged.

import { parse } from "./frame.js";
import { Stats } from "./stats.js";
import { Subscription } from "./subscription.js";

/** Previous socket ids that a resume request may contain (docs/resume.md, "Asking"). */
const PREVIOUS_IDS_MAX = 8;

const installed = new WeakMap();

/** Enables deltas and resume on `pusher`: see index.d.ts. */
export function withDeltas(pusher, options = {}) {
  if (!installed.has(pusher)) installed.set(pusher, install(pusher, options));
  return installed.get(pusher);
}

function install(pusher, { algorithm, resume = true, channels = () => true }) {
  const manager = pusher.connection;
  const setConnection = manager.setConnection.bind(manager);
  const send = manager.send_event.bind(manager);
  const subscriptions = new Map();
  const total = new Stats();
  const ids = [];
  const link = {
    algorithm,
    resume,
    send,
    previousIds: () => ids.slice(0, -1),
    restarted: (name) => pusher.channel(name)?.emit("fanfare:restart", {}),
  };

  manager.setConnection = (connection) => {
    listen(connection);
    setConnection(connection);
  };
  manager.send_event = (event, data, channel) => {
    if (event === "pusher:subscribe") data = subscribe(data);
    if (event === "pusher:unsubscribe") unsubscribe(data.channel);
    return send(event, data, channel);
  };
  if (manager.connection) listen(manager.connection);

  function listen({ id, transport }) {
    ids.push(id);
    if (ids.length > PREVIOUS_IDS_MAX + 1) ids.shift();
    subscriptions.forEach((subscription) => subscription.disconnected());
    const emit = transport.emit.bind(transport);
    transport.emit = (name, message, metadata) => {
      if (name !== "message") return emit(name, message, metadata);
      let passed = false;
      receive(message.data, (data) => {
        passed = true;
        emit(name, data === message.data ? message : { data });
      });
      // Resets the activity timer of pusher-js for frames that it does not receive.
      return passed ? transport : emit("activity");
    };
  }

  function receive(raw, pass) {
    const frame = parse(raw);
    const subscription = subscriptions.get(frame?.channel);
    if (subscription) subscription.receive(frame, raw, pass);
    // Drops frames of the extension that arrive after the end of a subscription.
    else if (!/^pusher:(delta|position)/.test(frame?.event)) pass(raw);
  }

  function subscribe(data) {
    const name = data.channel;
    if (name.startsWith("#") || !channels(name)) return data;
    if (!subscriptions.has(name)) subscriptions.set(name, new Subscription(name, link, total));
    return subscriptions.get(name).subscribe(data);
  }

  function unsubscribe(name) {
    const hasPendingRequests = subscriptions.get(name)?.close();
    if (!hasPendingRequests) subscriptions.delete(name);
  }

  return {
    stats: (channel) => (channel === undefined ? total : (subscriptions.get(channel)?.stats ?? new Stats())).read(),
  };
}
