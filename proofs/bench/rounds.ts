// Goes with the example: src/features/orders

/** One of the things that are compared. */
export interface Side {
  name: string;
  /** One slice of work; resolves to the CPU time of the measured process per unit of it, in µs. */
  run: () => Promise<number>;
}

/**
 * Lets all sides take turns in slices, in another order each round, so that whatever else the machine does hits
 * all of them. Resolves to the costs of each side, a round each; a first round warms up and does not count.
 */
export async function takeTurns(sides: Side[], rounds: number): Promise<number[][]> {
  const micros: number[][] = sides.map(() => []);
  for (let round = -1; round < rounds; round++) {
    for (const turn of sides.keys()) {
      const index = (turn + round + 1) % sides.length;
      const cost = await sides[index]?.run();
      if (round >= 0 && cost !== undefined) micros[index]?.push(cost);
    }
    process.stderr.write(`round ${round + 1} of ${rounds}\r`);
  }
  return micros;
}

/** What a unit of `other` costs in units of `one`, round by round. */
export function ratios(one: number[] = [], other: number[] = []): number[] {
  return other.map((cost, round) => cost / (one[round] ?? NaN));
}

/** CPU time of this process for each of `count` units of `work`, in µs. */
export async function ownMicros(count: number, work: () => unknown): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / count;
}

const IN_FLIGHT = 32;

/** Does `work` for 0 to `count` - 1, so many at once as a busy service has. */
export async function atOnce(count: number, work: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}
