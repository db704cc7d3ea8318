// Goes with the example: src/features/orders
import { testType } from './scenarios.js';

/** The figures that were promised, for a person; all of them as JSON where RESULTS names a folder. */
export function handleSummary(data) {
  const { metrics } = data;
  const value = (metric, name) => metrics[metric]?.values[name] ?? 0;
  const lines = [
    `${testType}: ${value('http_reqs', 'count')} requests, ${value('http_reqs', 'rate').toFixed(1)} a second, ${value('vus_max', 'max')} users at most`,
    `  answered within   ${['med', 'p(95)', 'p(99)', 'max'].map((name) => `${name} ${value('http_req_duration', name).toFixed(1)} ms`).join(', ')}`,
    `  failed            ${(100 * value('http_req_failed', 'rate')).toFixed(2)} %`,
    `  checks            ${(100 * value('checks', 'rate')).toFixed(2)} %`,
    `  not sent in time  ${value('dropped_iterations', 'count')}`,
    ...missed(metrics).map((text) => `  MISSED            ${text}`),
  ];
  const files = { stdout: `${lines.join('\n')}\n` };
  if (__ENV.RESULTS) files[`${__ENV.RESULTS}/${testType}.json`] = JSON.stringify(data, null, 2);
  return files;
}

function missed(metrics) {
  return Object.entries(metrics).flatMap(([name, { thresholds = {} }]) =>
    Object.entries(thresholds)
      .filter(([, { ok }]) => !ok)
      .map(([threshold]) => `${name}: ${threshold}`),
  );
}
