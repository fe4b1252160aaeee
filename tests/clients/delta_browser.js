// Sockets that opt in to deltas and rebuild every event with npm fossil-delta and
// @ably/vcdiff-decoder, implementations that are not ours, after stripping the
// markers with the regular expressions of the JavaScript client (protocol.md 3.5).
//
//   node delta_browser.js
//
// Environment: APP_KEY and APP_SECRET sign subscriptions to private channels.
//
// Commands
//   {"cmd":"open","id":1,"url":"ws://…/app/KEY?protocol=7","optin":"global"|"subscription"|"none"}
//       global: asks for deltas as soon as the connection stands;
//       subscription: asks in each subscribe; none: does not ask.
//   {"cmd":"enable","id":1,"algorithms":["fossil"]?}           the global opt-in, by hand
//   {"cmd":"subscribe","id":1,"channel":C,"delta":…?}          `delta` goes out as given
//   {"cmd":"unsubscribe","id":1,"channel":C}
//   {"cmd":"forget","id":1,"channel":C}        lose the base, so that the next delta asks for a resync
//   {"cmd":"close","id":1}
//
// Reports, all with the socket's `id`
//   {"type":"connected","socket_id":…,"activity_timeout":…}
//   {"type":"subscribed","channel":C}                          subscription_succeeded
//   {"type":"unsubscribed","channel":C}                        nothing of the channel counts from here on
//   {"type":"stray","channel":C,"frame":TEXT}                  an event that came all the same
//   {"type":"subscription_error","channel":C,"data":…}
//   {"type":"delta_enabled","channel":C|null,"data":…}
//   {"type":"event","channel":C,"event":E,"data":TEXT,"inline":bool,"seen":TYPE,"via":"full"|"delta",
//    "seq":N|null,"base_seq":N|null,"key":TEXT|null,"algorithm":…,"wire_bytes":N,"envelope_bytes":N}
//   {"type":"failure","channel":C,"reason":…,"frame":TEXT}     a delta that could not be applied
//   {"type":"pusher_error","data":…}   {"type":"other","frame":TEXT}
//   {"type":"error","error":…}   {"type":"closed","code":N,"reason":TEXT}
//
// `data` is the exact text of the event's data, to be compared byte for byte
// with what was published: the decoded string, or, where the envelope carries
// the data inline, that piece of the envelope untouched. `seen` is the type
// that an application's callback gets. `envelope_bytes` is the size of the
// event's frame without markers, so a test can count what deltas saved.

import { createHmac } from "node:crypto";
import vcdiff from "@ably/vcdiff-decoder";
import { applyDelta } from "fossil-delta";
import WebSocket from "ws";
import { print, serveCommands } from "./json_lines.js";

/** The patterns of the JavaScript client, in its order (protocol.md 3.5). */
const MARKERS = [
  /,"__delta_seq":\d+/g,
  /"__delta_seq":\d+,/g,
  /,"__conflation_key":"[^"]*"/g,
  /"__conflation_key":"[^"]*",/g,
];

const DECODERS = {
  fossil: (base, delta) => applyDelta(base, delta),
  xdelta3: (base, delta) => vcdiff.decode(delta, base),
};

const browsers = new Map();

class Browser {
  constructor(id, url, optin) {
    this.id = id;
    this.optin = optin;
    this.socketId = null;
    // By channel, then by conflation key, one base whatever the events are called:
    // { text, seq }.
    this.bases = new Map();
    // Channels that it has left: what still comes is on its way since before.
    this.left = new Set();
    // No compression, so that the bytes counted are the bytes on the wire.
    this.socket = new WebSocket(url, { perMessageDeflate: false });
    this.socket.on("message", (bytes) => this.receive(bytes.toString("utf8"), bytes.length));
    this.socket.on("error", (error) => this.report({ type: "error", error: String(error) }));
    this.socket.on("close", (code, reason) => this.report({ type: "closed", code, reason: String(reason) }));
  }

  report(report) {
    print({ id: this.id, ...report });
  }

  send(event, data) {
    this.socket.send(JSON.stringify({ event, data }));
  }

  enable(algorithms) {
    this.send("pusher:enable_delta_compression", algorithms ? { algorithms } : {});
  }

  subscribe(channel, delta) {
    const wanted = delta ?? (this.optin === "subscription" ? true : undefined);
    this.send("pusher:subscribe", { channel, auth: this.authFor(channel), delta: wanted });
  }

  authFor(channel) {
    if (!channel.startsWith("private-")) return undefined;
    const signature = createHmac("sha256", process.env.APP_SECRET ?? "")
      .update(`${this.socketId}:${channel}`)
      .digest("hex");
    return `${process.env.APP_KEY}:${signature}`;
  }

  unsubscribe(channel) {
    this.send("pusher:unsubscribe", { channel });
    this.bases.delete(channel);
    this.left.add(channel);
    this.report({ type: "unsubscribed", channel });
  }

  receive(frame, wireBytes) {
    const envelope = JSON.parse(frame);
    const { event, channel } = envelope;
    switch (event) {
      case "pusher:connection_established": {
        const { socket_id, activity_timeout } = JSON.parse(envelope.data);
        this.socketId = socket_id;
        if (this.optin === "global") this.enable();
        return this.report({ type: "connected", socket_id, activity_timeout });
      }
      case "pusher_internal:subscription_succeeded":
        this.left.delete(channel);
        return this.report({ type: "subscribed", channel });
      case "pusher:subscription_error":
        return this.report({ type: "subscription_error", channel, data: envelope.data });
      case "pusher:delta_compression_enabled":
        return this.report({ type: "delta_enabled", channel: channel ?? null, data: envelope.data });
      case "pusher:error":
        return this.report({ type: "pusher_error", data: envelope.data });
      case "pusher:ping":
        return this.send("pusher:pong", {});
      case "pusher:delta":
        if (this.left.has(channel)) return this.report({ type: "stray", channel, frame });
        return this.receiveDelta(channel, envelope.data, frame, wireBytes);
      case "pusher:delta_cache_sync":
        return this.replaceBases(channel, JSON.parse(envelope.data).states);
      default:
        if (channel === undefined || event.startsWith("pusher")) return this.report({ type: "other", frame });
        if (this.left.has(channel)) return this.report({ type: "stray", channel, frame });
        return this.receiveFull(envelope, frame, wireBytes);
    }
  }

  receiveFull(envelope, frame, wireBytes) {
    const { event, channel } = envelope;
    const marker = envelope.__delta_seq ?? envelope.sequence;
    const seq = Number.isInteger(marker) ? marker : null;
    const key = envelope.__conflation_key ?? envelope.conflation_key ?? null;
    const text = seq === null ? frame : MARKERS.reduce((rest, pattern) => rest.replace(pattern, ""), frame);
    this.reportEvent({ channel, event, via: "full", seq, base_seq: null, key }, frame, wireBytes, text);
    // An unmarked event leaves the base as it is.
    if (seq !== null) this.basesOf(channel).set(key ?? "", { text, seq });
  }

  basesOf(channel) {
    if (!this.bases.has(channel)) this.bases.set(channel, new Map());
    return this.bases.get(channel);
  }

  replaceBases(channel, states) {
    const newest = ([key, [{ content, seq }]]) => [key, { text: content, seq }];
    this.bases.set(channel, new Map(Object.entries(states).map(newest)));
  }

  receiveDelta(channel, data, frame, wireBytes) {
    const delta = typeof data === "string" ? JSON.parse(data) : data;
    const key = delta.conflation_key ?? null;
    const base = this.basesOf(channel).get(key ?? "");
    if (!base) {
      this.send("pusher:delta_sync_error", { channel });
      return this.report({ type: "failure", channel, reason: "no base", frame });
    }
    let text;
    try {
      // Said by no decoder, but a base that is not the one meant would be luck.
      if (delta.base_index !== base.seq) {
        throw new Error(`base_index is ${delta.base_index}, but this client holds ${base.seq}`);
      }
      text = rebuild(base.text, delta);
    } catch (error) {
      return this.report({ type: "failure", channel, reason: String(error), frame });
    }
    const { event, seq, algorithm } = delta;
    this.basesOf(channel).set(key ?? "", { text, seq });
    const what = { channel, event, via: "delta", seq, base_seq: base.seq, key, algorithm };
    this.reportEvent(what, text, wireBytes, text);
  }

  reportEvent(what, envelopeText, wireBytes, strippedText) {
    const raw = rawMember(envelopeText, "data");
    const value = raw === null ? undefined : JSON.parse(raw);
    const inline = typeof value !== "string";
    this.report({
      type: "event",
      ...what,
      data: inline ? raw : value,
      inline,
      seen: typeOf(what.via === "full" && !inline ? parsedOrAsItIs(value) : value),
      wire_bytes: wireBytes,
      envelope_bytes: Buffer.byteLength(strippedText),
    });
  }
}

/** Base text and delta frame to the next envelope's text. */
function rebuild(baseText, { algorithm = "fossil", delta }) {
  const decode = DECODERS[algorithm];
  if (!decode) throw new Error(`algorithm ${algorithm}`);
  const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
  if (!base64.test(delta)) throw new Error("the delta is not padded standard base64");
  const patch = new Uint8Array(Buffer.from(delta, "base64"));
  const target = decode(new TextEncoder().encode(baseText), patch);
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(target);
}

/** A full event's string data reaches an application as JSON where it is JSON. */
function parsedOrAsItIs(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function typeOf(value) {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}

/**
 * The source text of a top-level member of a valid JSON object, byte for byte,
 * white space included; null where there is none. (JSON.parse keeps values
 * only: `1.0` and `1` would look the same.)
 */
function rawMember(text, name) {
  let depth = 0;
  let key = null;
  let start = 0; // of the value of `key`
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') {
      const end = stringEnd(text, i);
      if (depth === 1 && key === null) key = JSON.parse(text.slice(i, end));
      i = end - 1;
    } else if (c === "{" || c === "[") {
      depth++;
    } else if (depth === 1 && c === ":") {
      start = i + 1;
    } else if (depth === 1 && (c === "," || c === "}")) {
      if (key === name) return text.slice(start, i);
      key = null;
    } else if (c === "}" || c === "]") {
      depth--;
    }
  }
  return null;
}

/** Where the string that begins at `start` is over. */
function stringEnd(text, start) {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
  return i + 1;
}

function browser({ id }) {
  const found = browsers.get(id);
  if (!found) throw new Error(`no socket has id ${id}`);
  return found;
}

await serveCommands({
  open({ id, url, optin }) {
    browsers.set(id, new Browser(id, url, optin ?? "none"));
  },
  enable: (command) => browser(command).enable(command.algorithms),
  subscribe: (command) => browser(command).subscribe(command.channel, command.delta),
  unsubscribe: (command) => browser(command).unsubscribe(command.channel),
  forget: (command) => browser(command).bases.delete(command.channel),
  close: (command) => browser(command).socket.close(),
});
