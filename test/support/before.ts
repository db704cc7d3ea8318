import { holdServers } from './servers.ts';

// tap runs this as a child of its runner, before the first test file; the runner is the user of the servers.
await holdServers(process.ppid);
