import { execFileSync } from 'node:child_process';
import { repositoryDir } from './servers.ts';

const LABEL = `hardpoint-test=${repositoryDir}`;

/** A Redis server in a container, with the same controls as a process. */
export function containerOf(image: string, args: string[], port: number) {
  const name = `hardpoint-test-${process.pid}-${port}`;
  return {
    start() {
      const options = ['-d', '--rm', '--name', name, '--label', LABEL];
      docker(
        'run',
        ...options,
        '-p',
        `127.0.0.1:${port}:6379`,
        image,
        'redis-server',
        '--save',
        '',
        '--protected-mode',
        'no',
        ...args,
      );
    },
    async stop() {
      try {
        docker('rm', '-f', name);
      } catch {
        // Stopped before.
      }
    },
    freeze: () => docker('pause', name),
    thaw: () => docker('unpause', name),
  };
}

/** What test files that were killed left behind. */
export function removeContainers(): void {
  const names = docker('ps', '-aq', '--filter', `label=${LABEL}`).split('\n').filter(Boolean);
  if (names.length > 0) docker('rm', '-f', ...names);
}

function docker(...words: string[]): string {
  return execFileSync('docker', words, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}
