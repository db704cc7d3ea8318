// Goes with the example: src/features/orders
const [WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [900, 200, 60, 30, 24, 8];

/**
 * Draws lines over time as SVG. The axis begins at zero.
 * @param times seconds, rising @param lines name, colour, and a value for each time; null where there is none
 */
export function chartOf(title, times, lines) {
  const top = ceiling(Math.max(...lines.flatMap(({ values }) => values.map((value) => value ?? 0))));
  const last = times[times.length - 1] || 1;
  const x = (second) => LEFT + ((WIDTH - LEFT - RIGHT) * second) / last;
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const grid = [0, 0.5, 1].map((part) => {
    const at = y(part * top).toFixed(1);
    return `<path d="M${LEFT} ${at}H${WIDTH - RIGHT}" stroke="#d1d9e0"/><text x="${LEFT - 6}" y="${at}" dy="4" text-anchor="end">${part * top}</text>`;
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    return `<text x="${x(part * last).toFixed(1)}" y="${HEIGHT - 6}" text-anchor="middle">${Math.round(part * last)} s</text>`;
  });
  const paths = lines.map(({ colour, values }) => {
    const points = values.flatMap((value, index) =>
      value === null ? [] : [`${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`],
    );
    return `<path d="M${points.join('L')}" fill="none" stroke="${colour}" stroke-width="2"/>`;
  });
  const keys = lines.map(({ name, colour }) => `<span class="key" style="color:${colour}">${name}</span>`);
  return `<figure><figcaption>${title}${keys.join('')}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" font-size="11" role="img" aria-label="${title}">${grid.join('')}${ticks.join('')}${paths.join('')}</svg></figure>`;
}

/** Rounds up to 1, 2, 5, 10, 20, 50 and so on. 0 gets an axis too. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
