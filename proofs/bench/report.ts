// Goes with the example: src/features/orders
import { ratios } from './rounds.ts';
import { spread, spreadOf, type Spread } from './statistics.ts';

/** What one side of a comparison has shown, a number a round. */
export interface Measured {
  name: string;
  /** CPU time of the measured process for one unit of work, in µs. */
  micros: number[];
  /** Units a second, by the clock. */
  perSecond?: number[];
  /** Commands that Redis got, for one unit of work. */
  redisCommands?: number | undefined;
}

/** The same as it is kept. */
export interface Row {
  name: string;
  cpuMicros: Spread;
  perCpuSecond: number;
  perSecond?: Spread;
  /** Units per CPU second as a share of those of the first side, round by round. */
  ofFirst: Spread;
  /** How many times as many units per CPU second our side does, round by round. */
  oursTimes?: Spread;
  redisCommands?: number;
}

export type Figure = number | Spread;
export interface Results {
  comparisons: Record<string, Row[]>;
  figures: Record<string, Figure>;
}

/** Prints what was measured, and gathers it. */
export class Report {
  readonly results: Results = { comparisons: {}, figures: {} };

  say(line = ''): void {
    console.log(line);
  }

  /** A line a side; `ours` is the index of our side, unless none is. */
  compare(title: string, sides: Measured[], ours?: number): Row[] {
    const rows = sides.map(({ name, micros, perSecond, redisCommands }): Row => {
      const cpuMicros = spreadOf(micros);
      return {
        name,
        cpuMicros,
        perCpuSecond: 1e6 / cpuMicros.median,
        ...(perSecond && { perSecond: spreadOf(perSecond) }),
        ofFirst: spreadOf(ratios(micros, sides[0]?.micros)),
        ...(ours !== undefined && { oursTimes: spreadOf(ratios(sides[ours]?.micros, micros)) }),
        ...(redisCommands !== undefined && { redisCommands }),
      };
    });
    this.results.comparisons[title] = rows;
    this.say(`\n${title}`);
    for (const row of rows) this.say(`  ${lineOf(row)}`);
    return rows;
  }

  /** One number, or one a round; `bound` is what it should not pass. */
  figure(name: string, value: number | number[], digits = 0, bound?: number): void {
    const kept = typeof value === 'number' ? value : spreadOf(value);
    this.results.figures[name] = kept;
    const text = typeof kept === 'number' ? kept.toFixed(digits) : spread(kept, digits);
    this.say(`${name}: ${text}${bound === undefined ? '' : `   (bound: ${bound})`}`);
  }
}

function lineOf({ name, cpuMicros, perCpuSecond, perSecond, ...row }: Row): string {
  const digits = cpuMicros.median < 10 ? 2 : 1;
  return [
    name.padEnd(36),
    `${spread(cpuMicros, digits)} µs CPU`.padEnd(30),
    `${perCpuSecond.toFixed(0)} /CPU s`.padStart(14),
    ...(perSecond ? [`${perSecond.median.toFixed(0)} /s`.padStart(9)] : []),
    ` of first ${spread(row.ofFirst, 2)}`.padEnd(28),
    ...(row.oursTimes ? [`ours × ${spread(row.oursTimes, 2)}`.padEnd(24)] : []),
    ...(row.redisCommands === undefined ? [] : [`${row.redisCommands.toFixed(3)} Redis commands`]),
  ].join(' ');
}
