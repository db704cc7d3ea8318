// Goes with the example: src/features/orders

/**
 * Of requests that were admitted, each somewhere between its moments `from` and `to`: how many there were at least in
 * the fullest window of so many milliseconds. Never more than there can have been, however late an answer came.
 */
export function fullestWindow(admitted, windowMs) {
  let most = 0;
  for (const { from } of admitted) {
    const inside = admitted.filter((other) => other.from >= from && other.to < from + windowMs);
    most = Math.max(most, inside.length);
  }
  return most;
}

/** How many of a limit have to be admitted at least when there are more: a late answer of Redis takes its token along. */
export function leastAdmitted(limit) {
  return Math.min(Math.floor(0.95 * limit), limit < 100 ? limit - 2 : Infinity);
}
