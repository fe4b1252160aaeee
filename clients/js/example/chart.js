const BARS = 60;

/** A bar for each of the last events: its bytes on the wire, relative to its full size. */
export class Chart {
  #events = [];
  #figure;

  constructor(figure) {
    this.#figure = figure;
  }

  /** Adds an event: `{ full, wire, isDelta }`, sizes in bytes. */
  add(event) {
    this.#events = [...this.#events, event].slice(-BARS);
    const most = Math.max(...this.#events.map(({ full, wire }) => Math.max(full, wire)));
    this.#figure.replaceChildren(...this.#events.map((event) => bar(event, most)));
  }
}

function bar({ full, wire, isDelta }, most) {
  const outer = document.createElement("i");
  outer.style.height = `${(100 * Math.max(full, wire)) / most}%`;
  outer.title = `${wire} bytes for an event of ${full}`;
  const inner = document.createElement("i");
  inner.className = isDelta ? "delta" : "full";
  inner.style.height = `${(100 * wire) / Math.max(full, wire)}%`;
  outer.append(inner);
  return outer;
}
