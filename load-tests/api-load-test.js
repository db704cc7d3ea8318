// Goes with the example: src/features/orders

/**
 * The load test of the API, for k6:
 *
 *   BASE_URL=https://localhost API_KEYS_FILE=keys.txt TEST_TYPE=steady k6 run load-tests/api-load-test.js
 *
 * TEST_TYPE: smoke (default), steady, stress, spike, soak, breakpoint, limits. docs/load-testing.md explains the kinds,
 * the keys, the variables and the results. If a threshold is missed, k6 exits with 99.
 */
export { options } from './options.js';
export { setup } from './setup.js';
export { arrive, use } from './mix.js';
export { watchCache } from './cache.js';
export { limits } from './limits.js';
export { handleSummary } from './summary.js';
