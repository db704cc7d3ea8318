// The variables of whoever runs the tests (DATABASE_URL, LOG_LEVEL, NODE_ENV, PGOPTIONS, LANG, …) would change what
// the tests see, in their own process and in all that they start. Only what programs need to run at all stays,
// and what is meant for the tests. Loaded before everything else; what it needs is part of Node.
import { devNull } from 'node:os';

const KEPT = [
  /^(PATH|HOME|USER|LOGNAME|SHELL|TERM|TMPDIR)$/,
  /^(DOCKER_|HTTPS?_PROXY$|NO_PROXY$)/i,
  /^(SYSTEMROOT|WINDIR|COMSPEC|PATHEXT|PATH|TEMP|TMP|USERPROFILE|(LOCAL)?APPDATA|PROGRAM(DATA|FILES.*))$/i,
  /^_?TAP/,
  /^(TEST_DATABASE_URL|TEST_REDIS_URL|REQUIRE_\w+|LIMITS_RUNS|CHROMIUM_PATH|SCREENSHOT)$/,
];

for (const name of Object.keys(process.env)) {
  if (!KEPT.some((pattern) => pattern.test(name))) delete process.env[name];
}
// Settings of git are the caller's as well.
process.env.GIT_CONFIG_GLOBAL = devNull;
process.env.GIT_CONFIG_NOSYSTEM = '1';
