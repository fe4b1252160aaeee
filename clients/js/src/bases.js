/** Chains per channel. Above the limit, the least recently used chain loses its base. */
const CHAINS_MAX = 1000;

/** The newest event of each chain of a channel: the base of the next delta of that chain. */
export class Bases {
  // By conflation key, in order from least to most recently used.
  #newest = new Map();

  /** The bytes of event `seq`, if it is the newest of its chain; otherwise undefined. */
  find(key, seq) {
    const base = this.#newest.get(key);
    return base?.seq === seq ? base.bytes : undefined;
  }

  /** Stores the newest event of a chain. Returns the sequence number of an evicted event, if any. */
  store(key, seq, bytes) {
    this.#newest.delete(key);
    this.#newest.set(key, { seq, bytes });
    if (this.#newest.size <= CHAINS_MAX) return;
    const [[oldest, base]] = this.#newest;
    this.#newest.delete(oldest);
    return base.seq;
  }

  clear() {
    this.#newest.clear();
  }
}
