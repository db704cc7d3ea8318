/**
 * The closed list of what can go wrong for a client. Code that fails picks a code; only
 * http/problems.ts knows which HTTP status it becomes.
 */
export const ERROR_CODES = [
  'bad_request',
  'malformed_json',
  'validation_failed',
  'unauthorized',
  'forbidden',
  'https_required',
  'not_found',
  'method_not_allowed',
  'not_acceptable',
  'conflict',
  'illegal_transition',
  'idempotency_in_progress',
  'idempotency_response_gone',
  'precondition_failed',
  'precondition_required',
  'payload_too_large',
  'uri_too_long',
  'headers_too_large',
  'unsupported_media_type',
  'idempotency_key_reused',
  'result_too_large',
  'rate_limited',
  'request_timeout',
  'internal',
  'unavailable',
  'overloaded',
  'timeout',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** One field that did not pass validation; `path` is a JSON Pointer (RFC 6901) into the part named by `in`. */
export interface FieldError {
  in: 'body' | 'query' | 'path' | 'header';
  path: string;
  message: string;
}

export interface AppErrorOptions {
  /** What really happened: for the log, never for the client. */
  cause?: unknown;
  errors?: FieldError[];
  /** Seconds until a retry makes sense; becomes `Retry-After`. */
  retryAfterSeconds?: number;
  /** Further response headers that belong to this failure, such as `Allow`. */
  headers?: Record<string, string>;
}

/** An expected failure. `message` is written for the client. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly errors: FieldError[] | undefined;
  readonly retryAfterSeconds: number | undefined;
  readonly headers: Record<string, string> | undefined;

  constructor(code: ErrorCode, message: string, options: AppErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.name = 'AppError';
    this.code = code;
    this.errors = options.errors;
    this.retryAfterSeconds = options.retryAfterSeconds;
    this.headers = options.headers;
  }
}
