// Waiting, and what a listener heard meanwhile.

/** Less than the patience of the tests, so that a failure says what was awaited. */
const WAIT_MS_MAX = 8_000;

/** `promise`, or an error that says what did not come. */
export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT_MS_MAX} ms`)), WAIT_MS_MAX);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The things one listener heard, in order; each is an array of what is worth telling. */
export class Log {
  heard = [];
  #awaited = [];

  constructor(listener) {
    this.listener = listener;
  }

  note(...thing) {
    this.heard.push(thing);
    for (const { count, resolve } of this.#awaited) {
      if (count <= this.heard.length) resolve();
    }
  }

  /** Waits until so many things were heard; it may be more by then. */
  async until(count) {
    if (count <= this.heard.length) return;
    const enough = new Promise((resolve) => this.#awaited.push({ count, resolve }));
    await within(enough, `thing number ${count} that ${this.listener} hears`).catch((error) => {
      throw new Error(`${error.message}; so far ${JSON.stringify(this.heard)}`);
    });
  }
}
