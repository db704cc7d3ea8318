import { watch } from 'node:fs';

/** Tells of changed source files, several in quick succession (a save of all, a git checkout) as one. */
export function watchFolder(folder: string) {
  let timer: NodeJS.Timeout | undefined;
  let tell: ((change: { file: string }) => void) | undefined;
  const watcher = watch(folder, { recursive: true }, (_event, file) => {
    // Editors make files of other names beside the one that they save.
    if (!file?.endsWith('.ts')) return;
    clearTimeout(timer);
    timer = setTimeout(() => tell?.({ file }), 150);
  });
  // Such as a folder that vanished: without restarts the service still runs.
  watcher.on('error', () => watcher.close());
  return {
    /** Resolves at the next change. */
    next: () => new Promise<{ file: string }>((resolve) => (tell = resolve)),
    close() {
      clearTimeout(timer);
      watcher.close();
    },
  };
}
