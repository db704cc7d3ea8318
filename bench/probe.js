// Goes with the example: src/features/orders
/** Preloaded into a measured process: answers its parent with what it has used so far. */
process.on('message', (message) => {
  if (message !== 'usage') return;
  const { user, system } = process.cpuUsage();
  process.send?.({ type: 'usage', cpuMicros: user + system, rssBytes: process.memoryUsage.rss() });
});
