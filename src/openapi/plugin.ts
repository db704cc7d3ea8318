/**
 * The OpenAPI document and the documentation page, from what the routes declare.
 *
 * Schemas, parameters and bodies come from zod; errors follow from what a route takes and needs (`failures`), and
 * from its own list. The document states what the server checks, in patterns that other languages read. It is written
 * at the first request.
 *
 * DOCS_ENABLED=false leaves both out. May be deleted with its line in `app.ts`.
 */

import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import helmet from '@fastify/helmet';
import fp from 'fastify-plugin';
import { createHash } from 'node:crypto';
import { DOCS_FILES, DOCS_HEADERS, DOCS_PAGE, type DocsFile } from './docs-page.ts';
import { AppError, type ErrorCode } from '../errors.ts';
import { describeApi } from './document.ts';
import type { ResponseHeader } from './headers.ts';
import { matchesEtag } from '../http/resource/etag.ts';

declare module 'fastify' {
  interface FastifySchema {
    /** Leaves the route out of the document. */
    hide?: boolean;
    operationId?: string;
    tags?: readonly string[];
    summary?: string;
    description?: string;
    /** What only this handler fails with; the rest follows from what the route takes and needs. */
    failures?: readonly ErrorCode[];
    /** Headers of its successful responses, beyond those that every route has. */
    responseHeaders?: readonly ResponseHeader[];
  }
}

/**
 * OpenAPI 3.1 from what the routes state: /openapi.json for programs, /docs for people. Register
 * before the first route that is to be in it.
 */
export const openApi = fp<{ title: string; version: string }>(
  async (app, info) => {
    const routes: RouteOptions[] = [];
    app.addHook('onRoute', (route) => {
      if (route.method !== 'HEAD' && !route.schema?.hide) routes.push(route);
    });
    const hidden = { config: { skipLogging: true }, schema: { hide: true } };
    const write = () => JSON.stringify(describeApi(routes, info));
    app.get('/openapi.json', hidden, sendFile(['application/json; charset=utf-8', write]));

    const sendPage = sendFile(DOCS_PAGE);
    // In a scope of its own: helmet's hooks cost time on every request of the scope that has them.
    await app.register(async (page) => {
      await page.register(helmet, DOCS_HEADERS);
      // The policy of the API would win over that of the page.
      page.get('/docs', hidden, (request, reply) =>
        sendPage(request, reply.removeHeader('content-security-policy')),
      );
    });
    const senders = new Map(Object.entries(DOCS_FILES).map(([name, file]) => [name, sendFile(file)]));
    app.get<{ Params: { file: string } }>('/docs/:file', hidden, (request, reply) => {
      if (request.params.file === '') return reply.redirect('../docs');
      const send = senders.get(request.params.file);
      if (!send) throw new AppError('not_found', 'There is nothing at this URL');
      return send(request, reply);
    });
  },
  { name: 'openapi' },
);

/** Reads at the first request, so that no start waits for it, and remembers. */
function sendFile([type, read]: DocsFile) {
  let file: { body: string | Buffer; etag: string } | undefined;
  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    if (!file) {
      const body = await read();
      file = { body, etag: `"${createHash('sha256').update(body).digest('base64url')}"` };
    }
    reply.header('etag', file.etag).header('cache-control', 'no-cache');
    if (matchesEtag(request.headers['if-none-match'], file.etag)) return reply.code(304).send();
    return reply.type(type).send(file.body);
  };
}
