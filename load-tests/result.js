// Goes with the example: src/features/orders

/**
 * The results of a run, from the summary of k6, for the JSON file and the page. Times in ms, rates in 1/s, shares in %.
 * @param plan type, url, totalSeconds, names, statuses, keys (how many), slices, sliceSeconds, rateAt(second), limit
 */
export function resultOf({ metrics, root_group: group, state }, plan) {
  const value = (metric, name) => metrics[metric]?.values[name] ?? 0;
  const percent = (metric) => round(100 * value(metric, 'rate'), 2);
  const has = (metric) => value(metric, 'passes') + value(metric, 'fails') > 0;
  const durations = (metric) =>
    Object.fromEntries(
      ['med', 'p(95)', 'p(99)', 'max'].map((name) => [
        name.replace(/[()]/g, ''),
        round(value(metric, name), 1),
      ]),
    );
  const load = plan.type === 'limits' ? '' : '{part:load}';
  const seconds = round(state.testRunDurationMs / 1000, 1);
  const thresholds = Object.entries(metrics).flatMap(([metric, { thresholds: own = {} }]) =>
    Object.entries(own).map(([threshold, { ok }]) => ({ metric, threshold, ok })),
  );
  // A run that was interrupted, or had wrong settings, shows nothing.
  const isWhole = state.testRunDurationMs >= 1000 * plan.totalSeconds;
  const missed = thresholds.filter(({ ok }) => !ok).map(({ metric, threshold }) => `${metric}: ${threshold}`);
  const slices = Array.from({ length: plan.slices }, (_, slice) => sliceOf(slice)).filter(
    ({ requests }) => requests > 0,
  );

  function sliceOf(slice) {
    const of = (metric) => `${metric}{slice:${slice}}`;
    const second = slice * plan.sliceSeconds;
    const requests = value(of('http_req_duration'), 'count');
    return {
      second,
      offeredPerSecond: round(plan.rateAt(second + plan.sliceSeconds / 2), 1),
      requests,
      requestsPerSecond: round(requests / plan.sliceSeconds, 1),
      ...durations(of('http_req_duration')),
      failedPercent: percent(of('http_req_failed')),
      hitPercent: has(of('cache_hit_rate')) ? percent(of('cache_hit_rate')) : null,
    };
  }

  return {
    type: plan.type,
    url: plan.url,
    endedAt: new Date().toISOString(),
    seconds,
    passed: missed.length === 0 && isWhole,
    missed: missed.length === 0 && !isWhole ? ['it ended before its time'] : missed,
    requests: value(`http_reqs${load}`, 'count'),
    requestsPerSecond: round(value(`http_reqs${load}`, 'rate'), 1),
    users: value('users', 'count'),
    duration: durations(`http_req_duration${load}`),
    failedPercent: percent(`http_req_failed${load}`),
    /** By status; 0: no response. */
    failures: plan.statuses
      .map((status) => ({ status, count: value(`failures{status:${status}}`, 'count') }))
      .filter(({ count }) => count > 0),
    checksPercent: percent('checks'),
    dropped: value('dropped_iterations', 'count'),
    hitPercent: has('cache_hit_rate{phase:measured}') ? percent('cache_hit_rate{phase:measured}') : null,
    brokeAt: plan.type === 'breakpoint' ? breakOf(slices, metrics, thresholds) : null,
    // Figures per slice are for the plots. The others are promises.
    thresholds: thresholds.filter(({ metric }) => !metric.includes('{slice:')),
    checks: group.checks.map(({ name, passes, fails }) => ({ name, passes, fails })),
    byName: plan.names
      .map((name) => {
        const of = (metric) => `${metric}{name:${name}}`;
        const requests = value(of('http_req_duration'), 'count');
        return {
          name,
          requests,
          ...durations(of('http_req_duration')),
          failedPercent: percent(of('http_req_failed')),
        };
      })
      .filter(({ requests }) => requests > 0),
    byKey: Array.from({ length: plan.keys }, (_, index) => {
      const of = (metric, name) => value(`${metric}{key:${index + 1}}`, name);
      const [admitted, denied] = [of('limits_admitted', 'count'), of('limits_denied', 'count')];
      return {
        key: index + 1,
        limit: plan.limit,
        admitted,
        denied,
        mostInAMinute: of('limits_most', 'value'),
      };
    }),
    slices,
  };
}

/** Where a breakpoint run ended: the first slice that missed a promise, and the throughput of the slice before. */
function breakOf(slices, metrics, thresholds) {
  if (thresholds.every(({ ok }) => ok)) return null;
  const missed = (slice) =>
    ['http_req_duration', 'http_req_failed'].some((metric) =>
      Object.values(metrics[`${metric}{slice:${slice}}`]?.thresholds ?? {}).some(({ ok }) => !ok),
    );
  const found = slices.findIndex((_, index) => missed(index));
  const index = found < 0 ? slices.length - 1 : found;
  const { second, offeredPerSecond } = slices[index];
  return { second, offeredPerSecond, answeredPerSecond: slices[Math.max(0, index - 1)].requestsPerSecond };
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}
