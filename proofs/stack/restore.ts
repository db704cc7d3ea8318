// Goes with the example: src/features/orders
import { DATABASE, REPLICAS, type Stack } from './engine.ts';
import { expect, until, type Report } from './report.ts';
import { send } from './request.ts';

/** Goals of README and runbooks, in hours. */
const RTO_HOURS = 1;
const RPO_HOURS = 24;

export async function proveRestore(stack: Stack, key: string, report: Report): Promise<void> {
  const { compose, docker, sql, https } = stack;
  const backup = (...command: string[]) => compose('exec', '-T', 'backup', '/scripts/backup.sh', ...command);
  await report.check('backup, loss of the volume, restore: the data is back', async () => {
    // The service writes its next starts to the audit log: of that the past has to be the same.
    const last = await sql('select max(occurred_at) from audit_event');
    const facts = async () => {
      const others = (await backup('facts', DATABASE)).replace(/^public\.audit_event .*\n/m, '');
      const past = await sql(`select count(*) from audit_event where occurred_at <= '${last}'`);
      return `${others}\naudit events ${past}`;
    };
    const before = await facts();
    const startedMs = performance.now();
    await backup('run');
    const takenMs = performance.now();
    const name = String((await backup('list')).split('\n').at(-1));

    await compose('rm', '-sf', 'postgres', 'api', 'migrate');
    await docker('volume', 'rm', stack.volume('postgres'));
    const lostMs = performance.now();
    await compose('up', '-d', '--no-build', '--wait', '--scale', `api=${REPLICAS}`, 'nginx');
    expect((await sql('select count(*) from orders')) === '0', 'the volume was not lost');
    await stack.run('scripts/restore.sh', name);
    const headers = { authorization: `Bearer ${key}` };
    const answers = async () => (await send(`${https}/v1/orders?limit=1`, { headers })).status === 200;
    await until('orders are read again', answers);
    const seconds = (performance.now() - lostMs) / 1000;

    const after = await facts();
    expect(after === before, `before: ${before}\nafter: ${after}`);
    expect(seconds < RTO_HOURS * 3600, `${seconds} s`);
    const rows = /orders (\d+)/.exec(after)?.[1];
    return (
      `${rows} orders; backup ${((takenMs - startedMs) / 1000).toFixed(1)} s, ` +
      `RTO ${seconds.toFixed(1)} s (goal ${RTO_HOURS} h), RPO the age of the backup (goal ${RPO_HOURS} h)`
    );
  });
}
