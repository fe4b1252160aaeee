// What the server says beside the event itself (protocol.md 3.3 to 3.5).

const MARKER = ',"__delta_seq":';

/** A frame as an object; undefined where it is none, which pusher-js complains about itself. */
export function parse(raw) {
  try {
    return JSON.parse(raw);
  } catch {
    return undefined;
  }
}

/** `data` is an object in some frames and JSON in others. */
export function dataOf({ data }) {
  return (typeof data === "string" ? parse(data) : data) ?? {};
}

/**
 * The number of an event, its chain, and the text that the next delta of that
 * chain builds on, if it is marked: without the markers of the style
 * `underscore`, which are the last members; those of the style `plain` belong to it.
 */
export function readEvent(frame, raw) {
  const { __delta_seq, sequence, __seq } = frame;
  const key = frame.__conflation_key ?? frame.conflation_key ?? "";
  if (__delta_seq !== undefined) {
    return { seq: __delta_seq, key, base: raw.slice(0, raw.lastIndexOf(MARKER)) + "}" };
  }
  return sequence === undefined ? { seq: __seq } : { seq: sequence, key, base: raw };
}
