import type { FastifyReply, FastifyRequest } from 'fastify';
import { STATUS_CODES, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { AppError } from '../errors.ts';
import type { Metrics } from '../observability/metrics.ts';
import { UNMATCHED, type RecordRequest } from './access-log.ts';
import { PROBLEM_TYPE, renderProblem, toAppError } from './problems.ts';
import { SECURITY_HEADERS } from './security-headers.ts';

interface SocketError extends Error {
  code?: string;
}

type HttpSocket = Socket & { _httpMessage?: ServerResponse | null };

/** Time for a client that was refused to read why and hang up; then the socket is closed. */
const LINGER_MS = 2_000;

/** Responds with problems to requests that reach no hook. */
export function createClientErrors(options: {
  newRequestId: () => string;
  record: RecordRequest;
  metrics: Metrics;
}) {
  const { newRequestId, metrics } = options;
  // The parser repeats its error for every further chunk.
  const refused = new WeakSet<Socket>();

  return {
    /**
     * What Node's HTTP parser refuses, where often no request object exists: 400, 408 and 431. A request that was
     * received in whole before the faulty bytes gets its own response first.
     */
    handleSocketError(thrown: SocketError, socket: HttpSocket): void {
      if (!refused.has(socket)) respond(thrown, socket);
      refused.add(socket);
    },

    /** What Fastify's router refuses before any hook runs: URLs that cannot be decoded or are too long. */
    handleRouterError(thrown: unknown, request: FastifyRequest, reply: FastifyReply): void {
      const { id, method, raw } = request;
      const { status, headers, body } = problem(toAppError(thrown), id);
      record(id, method, status, raw.trace?.traceId);
      reply.raw.writeHead(status, headers).end(method === 'HEAD' ? undefined : body);
    },
  };

  function respond(thrown: SocketError, socket: HttpSocket): void {
    // Node's own handler reads the response in progress in the same way.
    const { _httpMessage: current } = socket;
    if (thrown.code === 'ECONNRESET' || !socket.writable) socket.destroy();
    else if (!current) refuse(fromParser(thrown), socket);
    else if (current.req.complete) current.once('close', () => respond(thrown, socket));
    // Made in this turn, and written at its end.
    else if (current.writableEnded) current.once('close', () => socket.destroy());
    else if (current.headersSent) socket.destroy();
    else refuseInBody(fromParser(thrown), current);
  }

  function refuse(error: AppError, socket: Socket): void {
    const requestId = newRequestId();
    const { status, headers, body } = problem(error, requestId);
    record(requestId, 'OTHER', status);
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`);
    socket.setTimeout(LINGER_MS, () => socket.destroy());
  }

  /** The request has an id and will be logged when its response is closed. */
  function refuseInBody(error: AppError, response: ServerResponse): void {
    const { status, headers, body } = problem(error, response.req.id ?? newRequestId());
    response.writeHead(status, headers).end(body);
  }

  function problem(error: AppError, requestId: string) {
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

  function record(requestId: string, method: string, status: number, traceId?: string): void {
    options.record({
      requestId,
      traceId,
      method,
      route: UNMATCHED,
      status,
      durationMs: 0,
      skipLogging: false,
    });
  }
}

/**
 * Node cuts the connection of a CONNECT when nobody listens, and sends an empty 417 for an `Expect` that it does not
 * know. The first is refused like any other bad request; the second may be ignored (RFC 9110, 10.1.1), so the request
 * goes its usual way.
 */
export function handleConnectAndExpect(
  server: Server,
  refuse: (error: AppError, socket: Socket) => void,
): void {
  server.on('connect', (_request, socket: Socket) => {
    // From here on Node does not handle errors of this socket: a reset would be an uncaught exception.
    socket.on('error', () => socket.destroy());
    refuse(new AppError('bad_request', 'CONNECT is for proxies'), socket);
  });
  server.on('checkExpectation', (request, response) => {
    server.emit('request', request, response);
  });
}

function fromParser(thrown: SocketError): AppError {
  if (thrown instanceof AppError) return thrown;
  if (thrown.code === 'HPE_HEADER_OVERFLOW')
    return new AppError('headers_too_large', 'The request line and headers are larger than 16 KiB');
  if (thrown.code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new AppError('request_timeout', 'The request did not arrive in time');
  return new AppError('bad_request', 'The request is not valid HTTP');
}
