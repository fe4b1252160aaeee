/** Chains of one channel; beyond, the one that was idle the longest begins anew. */
const CHAINS_MAX = 1000;

/** The newest event of each chain, which the next delta of that chain builds on. */
export class Bases {
  // From the least to the most recently used.
  #newest = new Map();

  /** The bytes of event `seq`, if that is the newest of its chain. */
  find(key, seq) {
    const base = this.#newest.get(key);
    return base?.seq === seq ? base.bytes : undefined;
  }

  /** Returns the number of the event that had to go for it, if one had. */
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
