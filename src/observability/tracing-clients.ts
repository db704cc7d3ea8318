import { SpanKind, SpanStatusCode, context, trace, type Attributes, type Tracer } from '@opentelemetry/api';
import { tracingChannel, type TracingChannel } from 'node:diagnostics_channel';
import { statementChannel, type StatementEvent } from './statement-channel.ts';

/** What ioredis tells of a command; its arguments, keys included, are left where they are. */
interface CommandEvent {
  command: string;
  database: number;
  serverAddress: string;
  serverPort: number | undefined;
}

type BatchEvent = Omit<CommandEvent, 'command'> & { batchSize: number };

/** A span for each statement and each command that is part of a request; what runs by itself has none. */
export function traceClients(tracer: Tracer): void {
  spanFor(statementChannel, ({ name, operation, host, port, database }: StatementEvent) => ({
    name: name ?? operation,
    attributes: {
      'db.system.name': 'postgresql',
      'db.operation.name': operation,
      ...(name !== undefined && { 'db.query.summary': name }),
      ...(database !== undefined && { 'db.namespace': database }),
      'server.address': host,
      'server.port': port,
    },
  }));
  spanFor(tracingChannel<unknown, CommandEvent>('ioredis:command'), (event) => ({
    name: event.command.toUpperCase(),
    attributes: { 'db.operation.name': event.command.toUpperCase(), ...ofRedis(event) },
  }));
  spanFor(tracingChannel<unknown, BatchEvent>('ioredis:batch'), (event) => ({
    name: 'MULTI',
    attributes: {
      'db.operation.name': 'MULTI',
      'db.operation.batch.size': event.batchSize,
      ...ofRedis(event),
    },
  }));

  function spanFor<Event extends object>(
    channel: TracingChannel<unknown, Event>,
    describe: (event: Event) => { name: string; attributes: Attributes },
  ): void {
    const spans = new WeakMap<Event, ReturnType<Tracer['startSpan']>>();
    channel.start.subscribe((message) => {
      if (!trace.getSpan(context.active())) return;
      const event = message as Event;
      const { name, attributes } = describe(event);
      spans.set(event, tracer.startSpan(name, { kind: SpanKind.CLIENT, attributes }));
    });
    channel.asyncEnd.subscribe((message) => {
      const event = message as Event & { error?: unknown };
      const span = spans.get(event);
      if (event.error !== undefined) {
        span?.setAttributes(describeFailure(event.error)).setStatus({ code: SpanStatusCode.ERROR });
      }
      span?.end();
    });
  }
}

function ofRedis({ database, serverAddress, serverPort }: Omit<CommandEvent, 'command'>): Attributes {
  return {
    'db.system.name': 'redis',
    'db.namespace': String(database),
    'server.address': serverAddress,
    ...(serverPort !== undefined && { 'server.port': serverPort }),
  };
}

/** A code and no text, which may quote values: SQLSTATE, the first word of a Redis error, or the kind of error. */
function describeFailure(error: unknown): Attributes {
  if (!(error instanceof Error)) return { 'error.type': '_OTHER' };
  const { code } = error as { code?: unknown };
  const reply = error.name === 'ReplyError' ? /^[A-Z]+/.exec(error.message)?.[0] : undefined;
  const status = typeof code === 'string' ? code : reply;
  return {
    'error.type': status ?? error.name,
    ...(status !== undefined && { 'db.response.status_code': status }),
  };
}
