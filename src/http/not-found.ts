import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import findMyWay, { type HTTPMethod } from 'find-my-way';
import { AppError } from '../errors.ts';

/**
 * 404 for unknown URLs and 405 with `Allow` for known ones (RFC 9110, 15.5.6), which Fastify
 * answers with 404. Give it to a scope as well: an unknown URL runs the hooks of the scope that
 * has a not-found handler, so that guessing URLs pays for the limiter.
 */
export const notFound = fp<{ routes: RouteList }>(
  async (app: FastifyInstance, { routes }) => {
    const objectionTo = ({ url }: FastifyRequest): AppError => {
      const methods = routes.methodsOf(url.split('?', 1)[0] ?? '');
      if (methods.length === 0) return new AppError('not_found', 'There is nothing at this URL');
      const allow = methods.join(', ');
      return new AppError('method_not_allowed', `This URL answers ${allow}`, { headers: { allow } });
    };
    app.setNotFoundHandler((request) => {
      throw objectionTo(request);
    });
    // After the hooks of the scope, which has to be registered before, and before the body is read.
    app.addHook('onRequest', (request, _reply, done) => {
      if (request.is404 && request.server === app) done(objectionTo(request));
      else done();
    });
  },
  { name: 'not-found' },
);

export interface RouteList {
  /** Methods that the route behind this path answers; empty when there is none. */
  methodsOf(path: string): string[];
}

/**
 * Collects the routes while they are registered; call before the first of them. In a router of the kind that Fastify
 * has, so that both read a pattern alike. Looked at on failures only.
 */
export function collectRoutes(app: FastifyInstance): RouteList {
  const router = findMyWay({ maxParamLength: app.initialConfig.routerOptions?.maxParamLength ?? 100 });
  const known = new Set<HTTPMethod>();
  app.addHook('onRoute', (route) => {
    // The one route of CORS for every preflight is no resource.
    if (route.url === '*') return;
    for (const each of [route.method].flat()) {
      const method = each as HTTPMethod;
      known.add(method);
      if (!router.hasRoute(method, route.url)) router.on(method, route.url, () => undefined);
    }
  });
  return {
    methodsOf: (path) => [...known].filter((method) => router.find(method, path)).toSorted(),
  };
}
