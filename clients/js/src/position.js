const NUMBER_MASK = 0x7fffffff;

/**
 * Whether sequence number `a` is after `b`. Numbers are the low 31 bits of a counter
 * that only grows, so the shorter distance decides (docs/resume.md, "Positions").
 * False if one of them is undefined.
 */
export function isLater(a, b) {
  const distance = (a - b) & NUMBER_MASK;
  return distance > 0 && distance < 0x40000000;
}
