import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
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

/** Collects the routes while they are registered; call before the first of them. Looked at on failures only. */
export function collectRoutes(app: FastifyInstance): RouteList {
  const patterns = new Map<string, { regex: RegExp; methods: Set<string> }>();
  app.addHook('onRoute', (route) => {
    // The one route of CORS for every preflight is no resource.
    if (route.url === '*') return;
    const known = patterns.get(route.url) ?? { regex: toRegex(route.url), methods: new Set<string>() };
    for (const method of [route.method].flat()) known.methods.add(method);
    patterns.set(route.url, known);
  });
  return {
    methodsOf(target) {
      const methods = new Set<string>();
      // A proxy may send the whole URL (RFC 9112, 3.2.2), which the router understands.
      const path = target.replace(/^https?:\/\/[^/]*/i, '');
      for (const { regex, methods: found } of patterns.values()) {
        if (regex.test(path)) for (const method of found) methods.add(method);
      }
      return [...methods].toSorted();
    },
  };
}

function toRegex(url: string): RegExp {
  const escaped = url.replace(/[.+?^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^${escaped.replace(/:[A-Za-z]+/g, '[^/]+').replace(/\*/g, '.*')}$`);
}
