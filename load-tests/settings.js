// Goes with the example: src/features/orders

/** Settings from the environment. docs/load-testing.md explains them. @throws Error that names an invalid variable */
export const settings = {
  type: __ENV.TEST_TYPE || 'smoke',
  urls: list('BASE_URL'),
  keysFile: __ENV.API_KEYS_FILE,
  statusUrls: list('STATUS_URL'),
  rate: number('RATE', 100, 1),
  users: number('USERS', 50, 0),
  seconds: __ENV.DURATION ? toSeconds(__ENV.DURATION) : undefined,
  limit: number('LIMIT', 100, 10),
  rounds: number('ROUNDS', 2, 1),
  p95Ms: number('P95_MS', 1000, 1),
  errorPercent: number('ERROR_PERCENT', 1, 0),
  hitPercent: number('HIT_PERCENT', 60, 0),
  insecure: __ENV.INSECURE === 'true',
  results: __ENV.RESULTS,
};

if (settings.urls.length === 0 || !settings.keysFile) {
  throw new Error(
    'Set BASE_URL (https://api.example.com) and API_KEYS_FILE (a file with a key on each line)',
  );
}

function list(name) {
  const urls = (__ENV[name] || '').split(/[\s,]+/).filter(Boolean);
  const wrong = urls.find((url) => !/^https?:\/\/[^/?#]+\/?$/.test(url));
  if (wrong) throw new Error(`${name}: ${wrong} must be such as https://api.example.com, without a path`);
  return urls.map((url) => url.replace(/\/$/, ''));
}

function number(name, standard, least) {
  const value = Number(__ENV[name] || standard);
  if (!(value >= least)) throw new Error(`${name}=${__ENV[name]} must be a number of at least ${least}`);
  return value;
}

function toSeconds(text) {
  const [, hours, minutes, seconds] = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text) || [];
  const sum = 3600 * Number(hours || 0) + 60 * Number(minutes || 0) + Number(seconds || 0);
  if (sum < 5) throw new Error(`DURATION=${text} must be such as 90s, 10m or 1h30m, and at least 5s`);
  return sum;
}
