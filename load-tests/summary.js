// Goes with the example: src/features/orders
import { pageOf } from './page.js';
import { keys, NAMES, STATUSES } from './requests.js';
import { resultOf } from './result.js';
import { settings } from './settings.js';
import { rateAt, slices, sliceSeconds, totalSeconds, type } from './types.js';

/** Prints the figures. If RESULTS names a folder, also writes them as JSON and as a page with plots. */
export function handleSummary(data) {
  const isLimits = type === 'limits';
  const result = resultOf(data, {
    type,
    url: settings.urls.join(', '),
    // The limits decide how long a `limits` run waits.
    totalSeconds: isLimits ? 0 : totalSeconds,
    limit: settings.limit,
    keys: isLimits ? keys.length : 0,
    names: isLimits ? [] : NAMES,
    statuses: isLimits ? [] : STATUSES,
    slices: isLimits ? 0 : slices,
    sliceSeconds,
    rateAt,
  });
  const files = { stdout: `${describe(result).join('\n')}\n` };
  if (settings.results && result.requests > 0) {
    const name = `${type}-${result.endedAt.slice(0, 19).replace(/:/g, '')}`;
    files[`${settings.results}/${name}.json`] = `${JSON.stringify(result, null, 2)}\n`;
    files[`${settings.results}/${name}.html`] = pageOf(result);
    files.stdout += `  written           ${name}.json, ${name}.html\n`;
  }
  return files;
}

function describe(result) {
  const { med, p95, p99, max } = result.duration;
  const { brokeAt } = result;
  return [
    `${type}: ${result.requests} requests in ${result.seconds} s, ${result.requestsPerSecond} a second; ${result.users} users`,
    `  answered within   median ${med} ms, P95 ${p95} ms, P99 ${p99} ms, at most ${max} ms`,
    `  failed            ${result.failedPercent} %${result.failures.map(({ status, count }) => `, ${count} with ${status || 'no answer'}`).join('')}`,
    `  checks            ${result.checksPercent} %`,
    ...result.checks
      .filter(({ fails }) => fails > 0)
      .map(({ name, passes, fails }) => `    ${name}: ${fails} of ${passes + fails} failed`),
    `  not sent in time  ${result.dropped}`,
    ...(result.hitPercent === null ? [] : [`  cache hits        ${result.hitPercent} %`]),
    ...result.byKey.map(
      ({ key, limit, admitted, denied, mostInAMinute }) =>
        `  key ${key}: ${admitted} admitted, ${denied} denied; at most ${mostInAMinute} in 60 s, limit ${limit}`,
    ),
    ...(brokeAt
      ? [
          `  BROKE             after ${brokeAt.second} s, at ${brokeAt.offeredPerSecond} iterations a second; ` +
            `just before, ${brokeAt.answeredPerSecond} requests a second were answered`,
        ]
      : []),
    ...result.missed.map((text) => `  MISSED            ${text}`),
  ];
}
