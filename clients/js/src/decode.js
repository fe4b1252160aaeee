// Decodes deltas: Fossil (protocol.md 3.14) and VCDIFF (protocol.md 3.15).

import { decode as applyVcdiff } from "@ably/vcdiff-decoder";
import { applyDelta } from "fossil-delta";

const xdelta3 = (delta, base) => applyVcdiff(delta, base);

const DECODERS = {
  fossil: (delta, base) => applyDelta(base, delta),
  xdelta3,
  vcdiff: xdelta3,
};

const encoder = new TextEncoder();
// A decoded text must encode to the same bytes: keeps a byte order mark, rejects invalid UTF-8.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Encodes a text as UTF-8. */
export const utf8 = (text) => encoder.encode(text);

/** Decodes UTF-8. Throws if it is invalid. */
export const text = (bytes) => decoder.decode(bytes);

/** Applies a base64 delta to the bytes of `base`. Throws if the delta does not fit the base. */
export function decode(algorithm, delta, base) {
  const bytes = Uint8Array.from(atob(delta), (char) => char.charCodeAt(0));
  return DECODERS[algorithm.toLowerCase()](bytes, base);
}
