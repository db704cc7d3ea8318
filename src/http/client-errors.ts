import type { FastifyReply, FastifyRequest } from 'fastify';
import { STATUS_CODES, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { AppError } from '../errors.ts';
import type { RecordRequest } from './access-log.ts';
import { PROBLEM_TYPE, renderProblem, toAppError } from './problems.ts';
import { SECURITY_HEADERS } from './security-headers.ts';
import type { Metrics } from '../observability/metrics.ts';

interface ClientErrorOptions {
  newRequestId: () => string;
  record: RecordRequest;
  metrics: Metrics;
}

interface SocketError extends Error {
  code?: string;
}

type HttpSocket = Socket & { _httpMessage?: ServerResponse | null };

/** Time for a client that was refused to read why and hang up; then we do. */
const LINGER_MS = 2_000;

/**
 * Answers what Node's HTTP parser refuses, where often no request object exists: 400, 408 and 431 as
 * problems. A request that was received in whole before the faulty bytes gets its own answer first.
 */
export function createSocketErrorHandler(options: ClientErrorOptions) {
  // The parser repeats its complaint for every further chunk.
  const refused = new WeakSet<Socket>();

  return (thrown: SocketError, socket: HttpSocket): void => {
    if (!refused.has(socket)) answer();
    refused.add(socket);

    function answer(): void {
      // Node's own handler looks at the answer in progress in the same way.
      const { _httpMessage: current } = socket;
      if (thrown.code === 'ECONNRESET' || !socket.writable) socket.destroy();
      else if (!current) refuse();
      else if (current.req.complete) current.once('close', answer);
      // Made in this turn, and written at its end.
      else if (current.writableEnded) current.once('close', () => socket.destroy());
      else if (current.headersSent) socket.destroy();
      else refuseInBody(current);
    }

    function refuse(): void {
      const requestId = options.newRequestId();
      const { status, headers, body } = problem(options, fromParser(thrown), requestId);
      record(options, requestId, 'OTHER', status);
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`);
      socket.setTimeout(LINGER_MS, () => socket.destroy());
    }

    /** The request is known and being observed: it is answered under its own id and logged there. */
    function refuseInBody(response: ServerResponse): void {
      const requestId = response.req.id ?? options.newRequestId();
      const { status, headers, body } = problem(options, fromParser(thrown), requestId);
      response.writeHead(status, headers).end(body);
    }
  };
}

/** Answers what Fastify's router refuses before any hook runs: URLs that cannot be decoded or are too long. */
export function createFrameworkErrorHandler(options: ClientErrorOptions) {
  return (thrown: unknown, request: FastifyRequest, reply: FastifyReply): void => {
    const { status, headers, body } = problem(options, toAppError(thrown), request.id);
    record(options, request.id, request.method, status, request.raw.trace?.traceId);
    reply.raw.writeHead(status, headers).end(request.method === 'HEAD' ? undefined : body);
  };
}

/**
 * Node cuts the connection of a CONNECT when nobody listens, and answers an `Expect` that it does not
 * know with an empty 417. The first is refused like any other bad request; the second may be ignored
 * (RFC 9110, 10.1.1), so the request goes its usual way.
 */
export function handleConnectAndExpect(
  server: Server,
  refuse: (error: AppError, socket: Socket) => void,
): void {
  server.on('connect', (_request, socket: Socket) => {
    // From here on Node does not look after this socket: a reset would be an uncaught exception.
    socket.on('error', () => socket.destroy());
    refuse(new AppError('bad_request', 'CONNECT is for proxies'), socket);
  });
  server.on('checkExpectation', (request, response) => {
    server.emit('request', request, response);
  });
}

function problem({ metrics }: ClientErrorOptions, error: AppError, requestId: string) {
  metrics.errors.inc({ code: error.code });
  const { status, body } = renderProblem(error, requestId);
  const headers = {
    ...SECURITY_HEADERS,
    'content-type': PROBLEM_TYPE,
    'content-length': String(Buffer.byteLength(body)),
    'cache-control': 'no-store',
    'x-request-id': requestId,
    connection: 'close',
  };
  return { status, headers, body };
}

function record(
  options: ClientErrorOptions,
  requestId: string,
  method: string,
  status: number,
  traceId?: string,
): void {
  options.record({
    requestId,
    traceId,
    method,
    route: 'unmatched',
    status,
    durationMs: 0,
    skipLogging: false,
  });
}

function fromParser(thrown: SocketError): AppError {
  if (thrown instanceof AppError) return thrown;
  switch (thrown.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError('headers_too_large', 'The request line and headers are larger than 16 KiB');
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError('request_timeout', 'The request did not arrive in time');
    default:
      return new AppError('bad_request', 'The request is not valid HTTP');
  }
}
