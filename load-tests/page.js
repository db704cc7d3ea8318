// Goes with the example: src/features/orders
import { chartOf } from './chart.js';

const COLOURS = ['#1f6feb', '#8250df', '#bf3989', '#9a6700'];
const STYLE = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1f2328}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}.good{color:#1a7f37}.bad{color:#cf222e}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem 1rem .2rem 0;text-align:right;
border-bottom:1px solid #d1d9e0}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}
figure{margin:1rem 0}figcaption{font-weight:600}.key{font-weight:400;margin-left:1rem}`;

/** Writes the results as one HTML file without dependencies. @param result of result.js */
export function pageOf(result) {
  const { type, url, seconds, endedAt, passed, brokeAt, duration, slices } = result;
  const parts = [
    `<h1>${escape(type)}: <span class="${passed ? 'good">passed' : 'bad">missed'}</span></h1>`,
    `<p>${escape(url)}, ${seconds} s, ended ${escape(endedAt)}</p>`,
    brokeAt &&
      `<p class="bad">Broke after ${brokeAt.second} s, at ${brokeAt.offeredPerSecond} iterations a second. Just before,
${brokeAt.answeredPerSecond} requests a second were answered.</p>`,
    tableOf(
      [
        'requests',
        'a second',
        'users',
        'median ms',
        'P95 ms',
        'P99 ms',
        'failed %',
        'checks %',
        'dropped',
        'cache hits %',
      ],
      [
        [
          result.requests,
          result.requestsPerSecond,
          result.users,
          duration.med,
          duration.p95,
          duration.p99,
          result.failedPercent,
          result.checksPercent,
          result.dropped,
          result.hitPercent ?? '-',
        ],
      ],
    ),
    result.failures.length > 0 &&
      `<p class="bad">Failed: ${result.failures.map(({ status, count }) => `${count} with ${status || 'no answer'}`).join(', ')}</p>`,
    '<h2>Promises</h2>',
    tableOf(
      ['of', 'promise', 'kept'],
      result.thresholds.map(({ metric, threshold, ok }) => [metric, threshold, ok ? 'yes' : 'NO']),
    ),
    ...(slices.length > 1 ? ['<h2>Over time</h2>', ...plotsOf(slices)] : []),
    ...(result.byName.length > 0
      ? [
          '<h2>By request</h2>',
          tableOf(
            ['request', 'count', 'median ms', 'P95 ms', 'P99 ms', 'failed %'],
            result.byName.map((each) => [
              each.name,
              each.requests,
              each.med,
              each.p95,
              each.p99,
              each.failedPercent,
            ]),
          ),
        ]
      : []),
    ...(result.byKey.length > 0
      ? [
          '<h2>By key</h2>',
          tableOf(
            ['key', 'limit a minute', 'admitted', 'denied', 'most in any 60 s'],
            result.byKey.map((each) => [
              each.key,
              each.limit,
              each.admitted,
              each.denied,
              each.mostInAMinute,
            ]),
          ),
        ]
      : []),
    '<h2>Checks</h2>',
    tableOf(
      ['check', 'passed', 'failed'],
      result.checks.map(({ name, passes, fails }) => [name, passes, fails]),
    ),
  ];
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(type)}</title><style>${STYLE}</style>
${parts.filter(Boolean).join('\n')}
</html>
`;
}

function plotsOf(slices) {
  const times = slices.map(({ second }) => second);
  const plot = (title, ...lines) =>
    chartOf(
      title,
      times,
      lines.map(([name, field], index) => {
        return { name, colour: COLOURS[index], values: slices.map((slice) => slice[field]) };
      }),
    );
  return [
    plot('Requests a second', ['answered', 'requestsPerSecond'], ['arrivals due', 'offeredPerSecond']),
    plot('Milliseconds until the answer', ['median', 'med'], ['P95', 'p95'], ['P99', 'p99']),
    plot('Failed, percent', ['failed', 'failedPercent']),
    plot('Cache hits, percent', ['hits', 'hitPercent']),
  ];
}

function tableOf(head, rows) {
  const row = (tag, cells) => `<tr>${cells.map((cell) => `<${tag}>${escape(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>${row('th', head)}${rows.map((cells) => row('td', cells)).join('')}</table>`;
}

function escape(text) {
  return String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
