// A market of invented instruments, published like by an application's backend:
// in signed requests to the server's HTTP API.

import { createHash, createHmac } from "node:crypto";

const NAMES = {
  FLGL: "Flugelhorn", TRPT: "Trumpet", CORN: "Cornet", FHRN: "French horn", TROM: "Trombone", EUPH: "Euphonium",
  TUBA: "Tuba", SNAR: "Snare drum", TIMP: "Timpani", CYMB: "Cymbals", GLOK: "Glockenspiel", PICC: "Piccolo",
};
/** Price changes per tick. */
const MOVES = 3;

/** The market. Each event contains all quotes, of which a few have changed. */
export class Market {
  #quotes = Object.entries(NAMES).map(([symbol, name]) => {
    const price = round(20 + Math.random() * 480);
    return { symbol, name, price, change: 0, open: price, high: price, low: price, volume: 1000 };
  });
  #number = 0;

  /** Changes some quotes. Returns the data of the next event. */
  tick() {
    for (let move = 0; move < MOVES; move += 1) {
      this.#move(this.#quotes[Math.floor(Math.random() * this.#quotes.length)]);
    }
    this.#number += 1;
    return { number: this.#number, currency: "EUR", quotes: this.#quotes.map((quote) => ({ ...quote })) };
  }

  #move(quote) {
    quote.price = round(quote.price * (1 + (Math.random() - 0.5) / 100));
    quote.change = round(quote.price - quote.open);
    quote.high = Math.max(quote.high, quote.price);
    quote.low = Math.min(quote.low, quote.price);
    quote.volume += Math.ceil(Math.random() * 50);
  }
}

function round(price) {
  return Math.round(price * 100) / 100;
}

/** Publishes a batch: `[{ name, channel, data }]`, `data` a string. `server`: { url, appId, key, secret }. */
export async function publish({ url, appId, key, secret }, batch) {
  const body = JSON.stringify({ batch });
  const path = `/apps/${appId}/batch_events`;
  const query = new URLSearchParams({
    auth_key: key,
    auth_timestamp: Math.floor(Date.now() / 1000),
    auth_version: "1.0",
    body_md5: createHash("md5").update(body).digest("hex"),
  });
  const signature = createHmac("sha256", secret).update(`POST\n${path}\n${query}`).digest("hex");
  const headers = { "content-type": "application/json" };
  const address = `${url}${path}?${query}&auth_signature=${signature}`;
  const response = await fetch(address, { method: "POST", headers, body });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
}
