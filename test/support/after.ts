import { releaseServers } from './servers.ts';

await releaseServers(process.ppid);
