// Logs of received events, and waiting with a timeout.

/** Shorter than the timeout of the tests, so that a failure names the missing event. */
const WAIT_MS_MAX = 8_000;

/** Resolves like `promise`. Rejects after a timeout, with `what` in the message. */
export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT_MS_MAX} ms`)), WAIT_MS_MAX);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The events that a listener received, in order. Each entry is an array of the recorded values. */
export class Log {
  entries = [];
  #waiting = [];

  constructor(listener) {
    this.listener = listener;
  }

  record(...entry) {
    this.entries.push(entry);
    for (const { count, resolve } of this.#waiting) {
      if (count <= this.entries.length) resolve();
    }
  }

  /** Waits until the log has at least `count` entries. */
  async until(count) {
    if (count <= this.entries.length) return;
    const enough = new Promise((resolve) => this.#waiting.push({ count, resolve }));
    await within(enough, `event number ${count} of ${this.listener}`).catch((error) => {
      throw new Error(`${error.message}; so far ${JSON.stringify(this.entries)}`);
    });
  }
}
