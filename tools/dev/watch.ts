import { existsSync, readdirSync, watch, type FSWatcher } from 'node:fs';
import { join } from 'node:path';

const SETTLE_MS = 150;

/**
 * Reports changed source files, several in quick succession (a git checkout) as one. A watcher for each folder:
 * on Linux the recursive one of Node 20 loses a file that an editor replaces instead of writing to it.
 */
export function watchFolder(root: string) {
  let watchers: FSWatcher[] = [];
  let timer: NodeJS.Timeout | undefined;
  let report: ((change: { file: string }) => void) | undefined;
  watchAll();

  function watchAll(): void {
    watchers = listFolders(root).map((folder) => watch(folder, (_event, file) => notice(file)));
    // Such as a folder that vanished; what is there instead is watched after the next change.
    for (const watcher of watchers) watcher.on('error', () => watcher.close());
  }

  function closeAll(): void {
    for (const watcher of watchers) watcher.close();
  }

  function notice(file: string | null): void {
    // Editors make files of other names beside the one that they save, and folders have no ending.
    if (file?.includes('.') && !file.endsWith('.ts')) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      // Anew, because a folder of the same name may be another one now.
      closeAll();
      watchAll();
      report?.({ file: file ?? root });
    }, SETTLE_MS);
  }

  return {
    /** Resolves at the next change. */
    next: () => new Promise<{ file: string }>((resolve) => (report = resolve)),
    close() {
      clearTimeout(timer);
      closeAll();
    },
  };
}

function listFolders(root: string): string[] {
  if (!existsSync(root)) return [];
  const below = readdirSync(root, { recursive: true, withFileTypes: true });
  const folders = below
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  return [root, ...folders];
}
