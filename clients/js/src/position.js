const NUMBER_MASK = 0x7fffffff;

/**
 * Whether number `a` comes after `b`: the shorter way around says so, as
 * numbers are the low 31 bits of a counter that only grows (docs/resume.md,
 * "Positions"). Where one of them is undefined it does not.
 */
export function isLater(a, b) {
  const distance = (a - b) & NUMBER_MASK;
  return distance > 0 && distance < 0x40000000;
}
