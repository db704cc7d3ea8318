import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { createHash } from 'node:crypto';
import { DOCS_FILES, DOCS_PAGE, DOCS_POLICY, type DocsFile } from '../docs-page.ts';
import { AppError, type ErrorCode } from '../errors.ts';
import { describeApi } from '../openapi-document.ts';
import type { Problems } from '../openapi-failures.ts';
import type { AnswerHeader } from '../openapi-headers.ts';
import { matchesEtag } from '../stores/etag.ts';

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
    /** Headers of its successful answers, beyond those that every route has. */
    answerHeaders?: readonly AnswerHeader[];
  }
}

export interface OpenApiOptions {
  title: string;
  version: string;
  problems: Problems;
}

/**
 * OpenAPI 3.1 from what the routes state: /openapi.json for programs, /docs for people. Register
 * before the first route that is to be in it.
 */
export const openApi = fp<OpenApiOptions>(
  async (app, { problems, ...info }) => {
    const routes: RouteOptions[] = [];
    app.addHook('onRoute', (route) => {
      if (route.method !== 'HEAD' && !route.schema?.hide) routes.push(route);
    });
    const hidden = { config: { quiet: true }, schema: { hide: true } };
    const document = () => JSON.stringify(describeApi(routes, info, problems));
    app.get(
      '/openapi.json',
      hidden,
      alwaysTheSame({ type: 'application/json; charset=utf-8', read: document }),
    );

    const page = alwaysTheSame({ type: 'text/html; charset=utf-8', read: () => DOCS_PAGE });
    app.get('/docs', hidden, (request, reply) =>
      page(request, reply.header('content-security-policy', DOCS_POLICY)),
    );

    const files = new Map([...DOCS_FILES].map(([name, file]) => [name, alwaysTheSame(file)]));
    app.get<{ Params: { file: string } }>('/docs/:file', hidden, (request, reply) => {
      if (request.params.file === '') return reply.redirect('../docs');
      const answer = files.get(request.params.file);
      if (!answer) throw new AppError('not_found', 'There is nothing at this URL');
      return answer(request, reply);
    });
  },
  { name: 'openapi' },
);

/** Read when it is asked for the first time, so that nobody waits for it at start; then kept. */
function alwaysTheSame({ type, read }: DocsFile) {
  let kept: { body: string | Buffer; etag: string } | undefined;
  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    if (!kept) {
      const body = await read();
      kept = { body, etag: `"${createHash('sha256').update(body).digest('base64url')}"` };
    }
    reply.header('etag', kept.etag).header('cache-control', 'no-cache');
    if (matchesEtag(request.headers['if-none-match'], kept.etag)) return reply.code(304).send();
    return reply.header('content-type', type).send(kept.body);
  };
}
