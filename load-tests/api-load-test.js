// Goes with the example: src/features/orders

/**
 * The load test of the API, for k6:
 *
 *   BASE_URL=https://localhost API_KEYS_FILE=keys.txt TEST_TYPE=steady k6 run load-tests/api-load-test.js
 *
 * The file holds a key on each line, made with a --limit that is above the load, and with the scopes
 * orders:read,orders:write. TEST_TYPE: smoke (default), steady, stress, spike, soak, breakpoint. RATE (100 requests a second) and USERS (50 at
 * once) scale all of them; DURATION the constant ones; INSECURE=true accepts a self-signed certificate. A missed
 * threshold ends the run with an error. RESULTS=FOLDER keeps the figures as JSON.
 */
export { options } from './scenarios.js';
export { mix, setup } from './mix.js';
export { handleSummary } from './summary.js';
