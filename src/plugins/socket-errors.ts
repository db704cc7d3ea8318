import type { FastifyReply, FastifyRequest } from 'fastify';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Logger } from 'pino';
import { AppError } from '../errors.ts';
import type { Metrics } from '../metrics.ts';

/** What the answers to requests that never reach a route have in common. */
export interface RawAnswerOptions {
  render: (error: AppError, requestId: string) => { status: number; body: string };
  headers: Record<string, string>;
  newRequestId: () => string;
  log: Logger;
  metrics: Metrics;
}

interface SocketError extends Error {
  code?: string;
}

/** Answers what Node's HTTP parser refuses, where no request object exists: 400, 408 and 431 as problems. */
export function createSocketErrorHandler(options: RawAnswerOptions) {
  return (thrown: SocketError, socket: Socket): void => {
    if (thrown.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const error = fromParser(thrown);
    const requestId = options.newRequestId();
    const { status, body } = options.render(error, requestId);
    record(options, requestId, error, status, 'OTHER');
    const headers = {
      ...options.headers,
      'x-request-id': requestId,
      'content-length': String(Buffer.byteLength(body)),
    };
    const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.end(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join('')}connection: close\r\n\r\n${body}`,
    );
  };
}

/** Answers what Fastify's router refuses before any hook runs: URLs that cannot be decoded or are too long. */
export function createFrameworkErrorHandler(
  options: RawAnswerOptions,
  toAppError: (thrown: never) => AppError,
) {
  return (thrown: unknown, request: FastifyRequest, reply: FastifyReply): void => {
    const error = toAppError(thrown as never);
    const { status, body } = options.render(error, request.id);
    record(options, request.id, error, status, request.method);
    reply.raw.writeHead(status, { ...options.headers, 'x-request-id': request.id });
    reply.raw.end(request.method === 'HEAD' ? undefined : body);
  };
}

function record(
  { log, metrics }: RawAnswerOptions,
  requestId: string,
  error: AppError,
  status: number,
  method: string,
) {
  metrics.errors.inc({ code: error.code });
  metrics.requests.inc({ method, route: 'unmatched', status });
  log.info(
    { request_id: requestId, method, endpoint: 'unmatched', status, code: error.code, duration_ms: 0 },
    'request completed',
  );
}

function fromParser(thrown: SocketError): AppError {
  switch (thrown.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError('headers_too_large', 'The request line and headers are larger than 16 KiB');
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError('request_timeout', 'The request did not arrive in time');
    default:
      return new AppError('bad_request', 'The request is not valid HTTP');
  }
}
