// Goes with the example: src/features/orders
import { writeFileSync } from 'node:fs';

/** Preloaded into a measured process: answers its parent with what it has used so far, and profiles it when told. */
let session;

process.on('message', (message) => {
  if (message === 'usage') tellUsage();
  if (message.profile === 'start') void startProfile(message.intervalMicros);
  if (message.profile === 'stop') void stopProfile(message.file);
});

function tellUsage() {
  const { user, system } = process.cpuUsage();
  const { rss: rssBytes, heapUsed: heapBytes } = process.memoryUsage();
  process.send?.({ type: 'usage', cpuMicros: user + system, rssBytes, heapBytes });
}

async function startProfile(interval) {
  const { Session } = await import('node:inspector/promises');
  session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.setSamplingInterval', { interval });
  await session.post('Profiler.start');
  process.send?.({ type: 'profiling' });
}

async function stopProfile(file) {
  const { profile } = await session.post('Profiler.stop');
  writeFileSync(file, JSON.stringify(profile));
  process.send?.({ type: 'profiled' });
}
