import { accessSync, constants, mkdtempSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const IN_MEMORY = '/dev/shm';
/** A whole run of the tests holds some 300 MB there at once. */
const ROOM_BYTES = 4 * 2 ** 30;

/**
 * An empty folder for what a server writes, in memory where the machine has plenty: most of what a test of a
 * database waits for is its disk. Not for programs, which such a folder may refuse to run.
 */
export function makeDataFolder(prefix: string): string {
  return mkdtempSync(join(hasRoomInMemory() ? IN_MEMORY : tmpdir(), prefix));
}

function hasRoomInMemory(): boolean {
  try {
    accessSync(IN_MEMORY, constants.W_OK);
    const { bavail, bsize } = statfsSync(IN_MEMORY);
    return bavail * bsize >= ROOM_BYTES;
  } catch {
    return false;
  }
}
