import { Bases } from "./bases.js";
import { decode, text, utf8 } from "./decode.js";
import { dataOf, parse, readEvent } from "./frame.js";
import { isLater } from "./position.js";
import { Stats } from "./stats.js";

/** The server hears one such request per channel in this time (protocol.md 3.10, docs/resume.md). */
const RESYNC_INTERVAL_MS = 1000;

/** What is known of one channel, over all connections for as long as it is subscribed. */
export class Subscription {
  #name;
  /** `{ algorithm, resume, send(event, data), former(), restarted(channel) }` */
  #link;
  #bases = new Bases();
  /** `{ epoch, seq }`, where the server can resume. */
  #position;
  /** Every marked event after this number, up to the position, is in `#bases`. */
  #from;
  /** The data of the application's subscription, to be sent again. */
  #data;
  /** Whether the last request named a position. */
  #named;
  /** Whether the application's subscription on this connection stands. */
  #stands;
  /** Whether all events after the position will come again. */
  #waits;
  /** Our own subscriptions that have not been answered yet. */
  #unanswered = 0;
  #timer;
  #resyncedAt = 0;
  /** Confirmed by the server, for deltas that do not name theirs. */
  #algorithm = "fossil";

  constructor(name, link, total) {
    this.#name = name;
    this.#link = link;
    this.stats = new Stats(total);
  }

  /** The application's subscription, with what we ask for. */
  ask(data) {
    this.#data = { ...data };
    // Encrypted events have nothing in common.
    if (!this.#name.startsWith("private-encrypted-")) this.#data.delta = this.#link.algorithm ?? true;
    return this.#request(this.#from);
  }

  /** The connection is gone: what was asked on it will not be answered. */
  disconnected() {
    this.#endWait();
    this.#unanswered = 0;
    this.#stands = false;
  }

  /** The application has unsubscribed. Says whether answers to what was asked still come. */
  close() {
    this.#endWait();
    this.#startFrom();
    this.#stands = false;
    return this.#unanswered > 0;
  }

  /** Takes a frame of this channel, and passes on what pusher-js is to see instead. */
  receive(frame, raw, pass) {
    const bytes = utf8(raw).length;
    this.stats.add({ bytes });
    const passRaw = (fullBytes = bytes) => {
      this.stats.add({ fullBytes });
      pass(raw);
    };
    switch (frame.event) {
      case "pusher_internal:subscription_succeeded":
        return this.#succeeded(dataOf(frame), passRaw);
      case "pusher:subscription_error":
        return this.#unanswered ? this.#refused() : passRaw();
      case "pusher:delta":
        return this.#delta(dataOf(frame), pass);
      case "pusher:position":
        return this.#moved(dataOf(frame));
      case "pusher:delta_cache_sync":
        return this.#synced(dataOf(frame));
      case "pusher:delta_compression_enabled":
        this.#algorithm = dataOf(frame).algorithm ?? this.#algorithm;
        return;
      default:
        return this.#full(frame, raw, passRaw);
    }
  }

  #full(frame, raw, pass) {
    const { seq, key, base } = readEvent(frame, raw);
    if (seq === undefined) return pass();
    if (this.#waits) return;
    const bytes = base && utf8(base);
    if (bytes) this.#store(key, seq, bytes);
    this.#took(seq);
    pass(bytes?.length);
  }

  #delta({ seq, conflation_key: key = "", ...delta }, pass) {
    if (this.#waits) return;
    const decoded = this.#decode(delta, key);
    if (!decoded) return this.#resync();
    const { bytes, event } = decoded;
    this.stats.add({ deltas: 1, fullBytes: bytes.length });
    this.#store(key, seq, bytes);
    this.#took(seq);
    pass(event);
  }

  /** The event of a delta; undefined without its base, or where it does not fit. */
  #decode({ delta, base_index, algorithm }, key) {
    try {
      const bytes = decode(algorithm ?? this.#algorithm, delta, this.#bases.find(key, base_index));
      const event = text(bytes);
      // VCDIFF has no checksum: what is no event of this channel was not meant.
      if (parse(event).channel === this.#name) return { bytes, event };
    } catch {
      // Whatever is wrong with it, it is asked for again.
    }
  }

  #store(key, seq, bytes) {
    const evicted = this.#bases.store(key, seq, bytes);
    if (isLater(evicted, this.#from)) this.#from = evicted;
  }

  #took(seq) {
    this.stats.add({ events: 1 });
    this.#advance(seq);
  }

  #advance(seq) {
    if (isLater(seq, this.#position?.seq)) this.#position.seq = seq;
  }

  /** `missed`: something before it may not have come. */
  #moved({ epoch, seq, missed }) {
    if (!this.#waits) {
      if (missed || epoch !== this.#position?.epoch) this.#startFrom({ epoch, seq });
      this.#advance(seq);
    }
    if (missed) this.#restarted();
  }

  /** `states`: the newest events of each chain, oldest first (protocol.md 3.9). */
  #synced({ states }) {
    if (this.#waits) return;
    this.#bases.clear();
    for (const key in states) {
      for (const { content, seq } of states[key]) this.#store(key, seq, utf8(content));
    }
    this.#from = this.#position?.seq;
  }

  #succeeded({ epoch, seq, resumed }, pass) {
    const isOwn = this.#unanswered > 0;
    if (isOwn) this.#unanswered -= 1;
    // Of a subscription that has ended meanwhile.
    if (isOwn && !this.#waits) return;
    this.#endWait();
    this.#stands = true;
    if (!resumed) this.#startFrom(epoch === undefined ? undefined : { epoch, seq });
    if (!isOwn) pass();
    if (!this.#named) return;
    if (resumed) this.stats.add({ resumed: 1 });
    else this.#restarted();
  }

  /** Our own subscription was refused: the application's goes on, with full events. */
  #refused() {
    this.#unanswered -= 1;
    if (!this.#waits) return;
    this.#endWait();
    this.#startFrom();
    this.#resync();
  }

  #startFrom(position) {
    this.#bases.clear();
    this.#position = position;
    this.#from = position?.seq;
  }

  /** There was a delta without its base. */
  #resync() {
    // Of a subscription that has ended.
    if (!this.#stands) return;
    this.#startFrom(this.#position);
    if (this.#position) this.#waits = true;
    else this.#restarted();
    const due = this.#resyncedAt + RESYNC_INTERVAL_MS - Date.now();
    this.#timer ??= setTimeout(() => this.#askAgain(), due);
  }

  #askAgain() {
    this.#timer = undefined;
    this.#resyncedAt = Date.now();
    this.stats.add({ resyncs: 1 });
    if (!this.#position) return this.#link.send("pusher:delta_sync_error", { channel: this.#name });
    this.#unanswered += 1;
    this.#link.send("pusher:subscribe", this.#request());
  }

  /** Events may have been missed. */
  #restarted() {
    this.stats.add({ restarted: 1 });
    this.#link.restarted(this.#name);
  }

  #request(from) {
    if (!this.#link.resume) return this.#data;
    this.#named = this.#position !== undefined;
    const position = { ...this.#position, from, socket_id: this.#link.former() };
    return { ...this.#data, resume: this.#named ? position : true };
  }

  #endWait() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waits = false;
  }
}
