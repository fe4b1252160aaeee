// Sockets that enable deltas and decode every event with the third-party decoders npm
// fossil-delta and @ably/vcdiff-decoder, after removing the markers with the regular
// expressions of the JavaScript client (protocol.md 3.5).
//
//   node delta_browser.js
//
// Environment: APP_KEY and APP_SECRET sign subscriptions to private channels.
//
// Commands
//   {"cmd":"open","id":1,"url":"ws://…/app/KEY?protocol=7","optin":"global"|"subscription"|"none"}
//       global: enables deltas when the connection is established;
//       subscription: requests deltas in each subscribe; none: does neither.
//   {"cmd":"enable","id":1,"algorithms":["fossil"]?}           sends the global opt-in
//   {"cmd":"subscribe","id":1,"channel":C,"delta":…?}          sends `delta` unchanged
//   {"cmd":"unsubscribe","id":1,"channel":C}
//   {"cmd":"forget","id":1,"channel":C}        drops the base, so that the next delta causes a resync
//   {"cmd":"close","id":1}
//
// Reports, all with the socket's `id`
//   {"type":"connected","socket_id":…,"activity_timeout":…}
//   {"type":"subscribed","channel":C}                          subscription_succeeded
//   {"type":"unsubscribed","channel":C}                        later frames of the channel are strays
//   {"type":"stray","channel":C,"frame":TEXT}                  an event after the unsubscribe
//   {"type":"subscription_error","channel":C,"data":…}
//   {"type":"delta_enabled","channel":C|null,"data":…}
//   {"type":"event","channel":C,"event":E,"data":TEXT,"inline":bool,"seen":TYPE,"via":"full"|"delta",
//    "seq":N|null,"base_seq":N|null,"key":TEXT|null,"algorithm":…,"wire_bytes":N,"envelope_bytes":N}
//   {"type":"failure","channel":C,"reason":…,"frame":TEXT}     a delta that could not be applied
//   {"type":"pusher_error","data":…}   {"type":"other","frame":TEXT}
//   {"type":"error","error":…}   {"type":"closed","code":N,"reason":TEXT}
//
// `data` is the exact text of the event's data, for a comparison byte for byte with
// the published data: the decoded string or, if the envelope carries the data inline,
// that part of the envelope unchanged. `seen` is the type that an application's callback
// receives. `envelope_bytes` is the size of the event's frame without markers, from
// which a test computes the savings of deltas.

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
    // By channel, then by conflation key: { text, seq }. A base does not depend on
    // the name of the event.
    this.bases = new Map();
    // Channels after an unsubscribe: frames sent before it may still arrive.
    this.unsubscribed = new Set();
    // No compression, so that the counted bytes are the bytes on the wire.
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
    const requested = delta ?? (this.optin === "subscription" ? true : undefined);
    this.send("pusher:subscribe", { channel, auth: this.authFor(channel), delta: requested });
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
    this.unsubscribed.add(channel);
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
        this.unsubscribed.delete(channel);
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
        if (this.unsubscribed.has(channel)) return this.report({ type: "stray", channel, frame });
        return this.receiveDelta(channel, envelope.data, frame, wireBytes);
      case "pusher:delta_cache_sync":
        return this.replaceBases(channel, JSON.parse(envelope.data).states);
      default:
        if (channel === undefined || event.startsWith("pusher")) return this.report({ type: "other", frame });
        if (this.unsubscribed.has(channel)) return this.report({ type: "stray", channel, frame });
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
    // An event without a marker does not change the base.
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
      // Decoders do not check this, and a wrong base may decode by chance.
      if (delta.base_index !== base.seq) {
        throw new Error(`base_index is ${delta.base_index}, but this client has ${base.seq}`);
      }
      text = rebuild(base.text, delta);
    } catch (error) {
      return this.report({ type: "failure", channel, reason: String(error), frame });
    }
    const { event, seq, algorithm } = delta;
    this.basesOf(channel).set(key ?? "", { text, seq });
    const members = { channel, event, via: "delta", seq, base_seq: base.seq, key, algorithm };
    this.reportEvent(members, text, wireBytes, text);
  }

  reportEvent(members, envelopeText, wireBytes, strippedText) {
    const raw = rawMember(envelopeText, "data");
    const value = raw === null ? undefined : JSON.parse(raw);
    const inline = typeof value !== "string";
    this.report({
      type: "event",
      ...members,
      data: inline ? raw : value,
      inline,
      seen: typeOf(members.via === "full" && !inline ? parsedOrText(value) : value),
      wire_bytes: wireBytes,
      envelope_bytes: Buffer.byteLength(strippedText),
    });
  }
}

/** Applies a delta to the text of its base. Returns the text of the event's envelope. */
function rebuild(baseText, { algorithm = "fossil", delta }) {
  const decode = DECODERS[algorithm];
  if (!decode) throw new Error(`unknown algorithm ${algorithm}`);
  const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
  if (!base64.test(delta)) throw new Error("the delta is not padded standard base64");
  const patch = new Uint8Array(Buffer.from(delta, "base64"));
  const target = decode(new TextEncoder().encode(baseText), patch);
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(target);
}

/** The data of a full event as an application receives it: parsed if the string is JSON. */
function parsedOrText(text) {
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
 * The source text of a top-level member of a valid JSON object, byte for byte and with
 * white space. Null if there is no such member. JSON.parse would lose the difference
 * between `1.0` and `1`.
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

/** The index after the end of the string that begins at `start`. */
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
