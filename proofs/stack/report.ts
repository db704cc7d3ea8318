import { setTimeout as delay } from 'node:timers/promises';

const seconds = (fromMs: number) => ((performance.now() - fromMs) / 1000).toFixed(1);

/** Prints what was proven, as it happens, and counts. */
export class Report {
  passed = 0;
  failed = 0;
  readonly #fromMs = performance.now();

  /** `work` proves the sentence `name`; it resolves to numbers worth printing. */
  async check(name: string, work: () => Promise<string | void>): Promise<void> {
    const fromMs = performance.now();
    console.log(`   ${name} …`);
    try {
      const evidence = await work();
      this.passed += 1;
      console.log(`-- ok: ${name} (${seconds(fromMs)} s)${evidence ? `: ${evidence}` : ''}`);
    } catch (error) {
      this.failed += 1;
      const { message, stderr = '' } = error as Error & { stderr?: string };
      console.log(
        `-- FAILED: ${name} (${seconds(fromMs)} s): ${message.slice(0, 1_000)} ${stderr.slice(-2_000)}`,
      );
    }
  }

  end(): void {
    console.log(`${this.passed} passed, ${this.failed} failed (${seconds(this.#fromMs)} s)`);
  }
}

/** Proves, and closes whatever happens, a signal included. Resolves to the exit code. */
export async function runChecks(
  prove: (report: Report) => Promise<void>,
  close: () => Promise<void>,
): Promise<number> {
  const report = new Report();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => void close().then(() => process.exit(130)));
  }
  try {
    await prove(report);
  } catch (error) {
    report.failed += 1;
    console.log(`-- FAILED: ${(error as Error).message}`);
  } finally {
    await close();
  }
  report.end();
  return report.failed === 0 ? 0 : 1;
}

/** Says loudly that nothing can be proven here; a failure with REQUIRE_TOOLS=1 only. Returns the exit code. */
export function skipChecks(reason: string): number {
  console.log(`SKIPPED: ${reason}`);
  return process.env.REQUIRE_TOOLS === '1' ? 1 : 0;
}

/** @throws Error with `text` unless it holds */
export function expect(holds: boolean, text: string): asserts holds {
  if (!holds) throw new Error(text);
}

/** Waits for a condition; one that throws does not hold yet. */
export async function until(what: string, holds: () => Promise<boolean>, withinSeconds = 60): Promise<void> {
  const deadlineMs = performance.now() + withinSeconds * 1000;
  while (!(await holds().catch(() => false))) {
    expect(performance.now() < deadlineMs, `not within ${withinSeconds} s: ${what}`);
    await delay(250);
  }
}
