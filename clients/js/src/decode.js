// Deltas to events: Fossil (protocol.md 3.14) and VCDIFF (protocol.md 3.15).

import { decode as applyVcdiff } from "@ably/vcdiff-decoder";
import { applyDelta } from "fossil-delta";

const xdelta3 = (delta, base) => applyVcdiff(delta, base);

const DECODERS = {
  fossil: (delta, base) => applyDelta(base, delta),
  xdelta3,
  vcdiff: xdelta3,
};

const encoder = new TextEncoder();
// A base must stay as it is to the byte, also where it begins with a mark or is broken.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The UTF-8 of a text. */
export const utf8 = (text) => encoder.encode(text);

/** The text of UTF-8; throws where it is not. */
export const text = (bytes) => decoder.decode(bytes);

/** The bytes that a delta (in base64) makes of `base`; throws where it does not fit. */
export function decode(algorithm, delta, base) {
  const bytes = Uint8Array.from(atob(delta), (char) => char.charCodeAt(0));
  return DECODERS[algorithm.toLowerCase()](bytes, base);
}
