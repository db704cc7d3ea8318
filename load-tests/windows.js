// Goes with the example: src/features/orders

/**
 * Each request was admitted between its `from` and its `to`. Returns the smallest possible number of requests in the
 * fullest window of this length. A late response never makes it larger than it can have been.
 */
export function fullestWindow(admitted, windowMs) {
  let most = 0;
  for (const { from } of admitted) {
    const inside = admitted.filter((other) => other.from >= from && other.to < from + windowMs);
    most = Math.max(most, inside.length);
  }
  return most;
}

/** The smallest number of admitted requests that passes: a late response from Redis loses its tokens. */
export function leastAdmitted(limit) {
  return Math.min(Math.floor(0.95 * limit), limit < 100 ? limit - 2 : Infinity);
}
