import { Bases } from "./bases.js";
import { decode, text, utf8 } from "./decode.js";
import { dataOf, parse, readEvent } from "./frame.js";
import { isLater } from "./position.js";
import { Stats } from "./stats.js";

/** Minimum time between resync requests of a channel (protocol.md 3.10, docs/resume.md). */
const RESYNC_INTERVAL_MS = 1000;

/** State of one subscription, over all connections until the application unsubscribes. */
export class Subscription {
  #name;
  /** `{ algorithm, resume, send(event, data), previousIds(), restarted(channel) }` */
  #link;
  #bases = new Bases();
  /** `{ epoch, seq }`. Undefined if the server cannot resume. */
  #position;
  /** Of the last confirmation. The server resumes from positions after that confirmation. */
  #token;
  /** `#bases` covers all marked events after this number, up to the position: `from` in docs/resume.md. */
  #basesFrom;
  /** The data of the application's subscribe command, for resync requests. */
  #data;
  /** Whether the last request contained a position. */
  #hasRequestedPosition;
  /** Whether the server has confirmed the application's subscription on this connection. */
  #isSubscribed;
  /** Whether the server will send all events after the position again. Until then they are dropped. */
  #isRecovering;
  /** Subscribe commands of this class, for a resync, without a reply so far. */
  #pendingResyncs = 0;
  #timer;
  #resyncedAt = 0;
  /** The algorithm confirmed by the server. Default for deltas without `algorithm`. */
  #algorithm = "fossil";

  constructor(name, link, total) {
    this.#name = name;
    this.#link = link;
    this.stats = new Stats(total);
  }

  /** Adds `delta` and `resume` to the data of the application's subscribe command. */
  subscribe(data) {
    this.#data = { ...data };
    // Deltas of encrypted events would not be shorter.
    if (!this.#name.startsWith("private-encrypted-")) this.#data.delta = this.#link.algorithm ?? true;
    return this.#requestData(this.#basesFrom);
  }

  /** Handles the loss of the connection: its pending requests get no reply. */
  disconnected() {
    this.#endRecovery();
    this.#pendingResyncs = 0;
    this.#isSubscribed = false;
  }

  /** Handles the application's unsubscribe. Returns whether replies are still pending. */
  close() {
    this.#endRecovery();
    this.#resetTo();
    this.#isSubscribed = false;
    return this.#pendingResyncs > 0;
  }

  /** Handles a frame of the channel. Passes the text for pusher-js, if any, to `pass`. */
  receive(frame, raw, pass) {
    const bytes = utf8(raw).length;
    this.stats.add({ bytes });
    const passRaw = (fullBytes = bytes) => {
      this.stats.add({ fullBytes });
      pass(raw);
    };
    switch (frame.event) {
      case "pusher_internal:subscription_succeeded":
        return this.#onSucceeded(dataOf(frame), passRaw);
      case "pusher:subscription_error":
        return this.#pendingResyncs ? this.#onError() : passRaw();
      case "pusher:delta":
        return this.#onDelta(dataOf(frame), pass);
      case "pusher:position":
        return this.#onPosition(dataOf(frame));
      case "pusher:delta_cache_sync":
        return this.#onInitialBases(dataOf(frame));
      case "pusher:delta_compression_enabled":
        this.#algorithm = dataOf(frame).algorithm ?? this.#algorithm;
        return;
      default:
        return this.#onFull(frame, raw, passRaw);
    }
  }

  #onFull(frame, raw, pass) {
    const { seq, key, base } = readEvent(frame, raw);
    if (seq === undefined) return pass();
    if (this.#isRecovering) return;
    const bytes = base && utf8(base);
    if (bytes) this.#store(key, seq, bytes);
    this.#onEvent(seq);
    pass(bytes?.length);
  }

  #onDelta({ seq, conflation_key: key = "", ...delta }, pass) {
    if (this.#isRecovering) return;
    const decoded = this.#decode(delta, key);
    if (!decoded) return this.#resync();
    const { bytes, event } = decoded;
    this.stats.add({ deltas: 1, fullBytes: bytes.length });
    this.#store(key, seq, bytes);
    this.#onEvent(seq);
    pass(event);
  }

  /** Decodes a delta to its event. Undefined if the base is missing or the delta does not fit it. */
  #decode({ delta, base_index, algorithm }, key) {
    try {
      const bytes = decode(algorithm ?? this.#algorithm, delta, this.#bases.find(key, base_index));
      const event = text(bytes);
      // VCDIFF has no checksum: a result that is not an event of this channel is wrong.
      if (parse(event).channel === this.#name) return { bytes, event };
    } catch {
      // A resync follows every decoding error.
    }
  }

  #store(key, seq, bytes) {
    const evicted = this.#bases.store(key, seq, bytes);
    if (isLater(evicted, this.#basesFrom)) this.#basesFrom = evicted;
  }

  #onEvent(seq) {
    this.stats.add({ events: 1 });
    this.#advance(seq);
  }

  #advance(seq) {
    if (isLater(seq, this.#position?.seq)) this.#position.seq = seq;
  }

  /** Handles a position notice. `missed`: events before the position may be lost. */
  #onPosition({ epoch, seq, missed }) {
    if (!this.#isRecovering) {
      if (missed || epoch !== this.#position?.epoch) this.#resetTo({ epoch, seq });
      this.#advance(seq);
    }
    if (missed) this.#restarted();
  }

  /** Handles the initial bases. `states`: the newest events of each chain, oldest first (protocol.md 3.9). */
  #onInitialBases({ states }) {
    if (this.#isRecovering) return;
    this.#bases.clear();
    for (const key in states) {
      for (const { content, seq } of states[key]) this.#store(key, seq, utf8(content));
    }
    this.#basesFrom = this.#position?.seq;
  }

  #onSucceeded({ epoch, seq, resumed, token }, pass) {
    const isResync = this.#pendingResyncs > 0;
    if (isResync) this.#pendingResyncs -= 1;
    // A resync reply of a subscription that has ended.
    if (isResync && !this.#isRecovering) return;
    this.#endRecovery();
    this.#isSubscribed = true;
    this.#token = token;
    if (!resumed) this.#resetTo(epoch === undefined ? undefined : { epoch, seq });
    if (!isResync) pass();
    if (!this.#hasRequestedPosition) return;
    if (resumed) this.stats.add({ resumed: 1 });
    else this.#restarted();
  }

  /** Handles a rejected resync. The application's subscription continues with full events. */
  #onError() {
    this.#pendingResyncs -= 1;
    if (!this.#isRecovering) return;
    this.#endRecovery();
    this.#resetTo();
    this.#resync();
  }

  #resetTo(position) {
    this.#bases.clear();
    this.#position = position;
    this.#basesFrom = position?.seq;
  }

  /** Requests the events after the position again, because a delta could not be decoded. */
  #resync() {
    // A delta of a subscription that has ended.
    if (!this.#isSubscribed) return;
    this.#resetTo(this.#position);
    if (this.#position) this.#isRecovering = true;
    else this.#restarted();
    const due = this.#resyncedAt + RESYNC_INTERVAL_MS - Date.now();
    this.#timer ??= setTimeout(() => this.#sendResync(), due);
  }

  #sendResync() {
    this.#timer = undefined;
    this.#resyncedAt = Date.now();
    this.stats.add({ resyncs: 1 });
    if (!this.#position) return this.#link.send("pusher:delta_sync_error", { channel: this.#name });
    this.#pendingResyncs += 1;
    this.#link.send("pusher:subscribe", this.#requestData());
  }

  /** Reports to the application that events may be lost. */
  #restarted() {
    this.stats.add({ restarted: 1 });
    this.#link.restarted(this.#name);
  }

  #requestData(from) {
    if (!this.#link.resume) return this.#data;
    this.#hasRequestedPosition = this.#position !== undefined;
    const position = { ...this.#position, from, socket_id: this.#link.previousIds(), token: this.#token };
    return { ...this.#data, resume: this.#hasRequestedPosition ? position : true };
  }

  #endRecovery() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isRecovering = false;
  }
}
