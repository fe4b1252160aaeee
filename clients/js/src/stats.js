/** Counters of one channel. Every count is also added to `total`, if given. */
export class Stats {
  #total;
  #counts = { events: 0, deltas: 0, bytes: 0, fullBytes: 0, resumed: 0, restarted: 0, resyncs: 0 };

  constructor(total) {
    this.#total = total;
  }

  add(counts) {
    for (const name in counts) this.#counts[name] += counts[name];
    this.#total?.add(counts);
  }

  read() {
    const { bytes, fullBytes } = this.#counts;
    return { ...this.#counts, saved: fullBytes - bytes };
  }
}
