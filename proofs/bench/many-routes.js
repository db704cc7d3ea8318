// Goes with the example: src/features/orders
import { subscribe } from 'node:diagnostics_channel';

/**
 * Preloaded into the service: gives it BENCH_COPIES more routes, each a copy of the one that reads an order, with
 * its checks, its metrics and its place behind all hooks.
 */
const copies = Number(process.env.BENCH_COPIES);

subscribe('fastify.initialization', ({ fastify }) => {
  let copied = false;
  fastify.addHook('onRoute', function copyRoute(route) {
    if (copied || route.method !== 'GET' || !route.url.endsWith('/orders/:id')) return;
    copied = true;
    for (let copy = 0; copy < copies; copy++) this.route({ ...route, url: `/copies-${copy}/:id` });
  });
});
