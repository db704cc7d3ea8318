import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import type { Test } from 'tap';

export interface Span {
  traceId: string;
  spanId: string;
  /** '' for a root. */
  parentSpanId: string;
  name: string;
  kind: number;
  /** 2 is an error. */
  status: number;
  traceState: string;
  attributes: Record<string, string | number>;
  resource: Record<string, string | number>;
}

export interface Collector {
  /** For OTEL_EXPORTER_OTLP_ENDPOINT. */
  url: string;
  /** All that came, in the order of its coming. */
  spans: Span[];
  requests: { path: string; headers: IncomingHttpHeaders; body: string }[];
}

/** The receiving end of OTLP/HTTP, protobuf and JSON; gone when `t` ends. */
export async function startCollector(t: Test): Promise<Collector> {
  const collector: Collector = { url: '', spans: [], requests: [] };
  const server = createServer((request, response) => void receive(request, response));
  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { url: path = '', headers } = request;
    const body = await text(request.setEncoding('latin1'));
    const isJson = headers['content-type'] === 'application/json';
    const bytes = Buffer.from(body, 'latin1');
    const plain = headers['content-encoding'] === 'gzip' ? gunzipSync(bytes) : bytes;
    collector.requests.push({ path, headers, body: plain.toString('latin1') });
    collector.spans.push(...(isJson ? readJson(plain.toString()) : readProtobuf(plain)));
    response.setHeader('content-type', headers['content-type'] ?? '').end(isJson ? '{}' : '');
  }
  await once(server.listen(0, '127.0.0.1'), 'listening');
  collector.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  return collector;
}

function readJson(body: string): Span[] {
  const { resourceSpans } = JSON.parse(body);
  return resourceSpans.flatMap(({ resource, scopeSpans }: any) =>
    scopeSpans.flatMap(({ spans }: any) =>
      spans.map((span: any) => ({
        ...span,
        parentSpanId: span.parentSpanId ?? '',
        traceState: span.traceState ?? '',
        status: span.status?.code ?? 0,
        attributes: toRecord(span.attributes),
        resource: toRecord(resource.attributes),
      })),
    ),
  );
}

function toRecord(attributes: { key: string; value: Record<string, string | number> }[]) {
  return Object.fromEntries(
    attributes.map(({ key, value: { intValue, ...value } }) => [
      key,
      intValue === undefined ? (Object.values(value)[0] ?? '') : Number(intValue),
    ]),
  );
}

/** The numbers are those of the fields in opentelemetry/proto/trace/v1/trace.proto. */
function readProtobuf(body: Buffer): Span[] {
  return messages(body, 1).flatMap((resourceSpans) => {
    const resource = messages(resourceSpans, 1).map((message) => readAttributes(message, 1))[0] ?? {};
    return messages(resourceSpans, 2).flatMap((scopeSpans) =>
      messages(scopeSpans, 2).map((span) => {
        const bytes = (field: number) => messages(span, field)[0] ?? Buffer.alloc(0);
        const [status] = messages(span, 15);
        return {
          traceId: bytes(1).toString('hex'),
          spanId: bytes(2).toString('hex'),
          traceState: bytes(3).toString(),
          parentSpanId: bytes(4).toString('hex'),
          name: bytes(5).toString(),
          kind: numberOf(span, 6),
          status: status ? numberOf(status, 3) : 0,
          attributes: readAttributes(span, 9),
          resource,
        };
      }),
    );
  });
}

function readAttributes(message: Buffer, field: number): Record<string, string | number> {
  return Object.fromEntries(
    messages(message, field).map((pair) => {
      const [value = Buffer.alloc(0)] = messages(pair, 2);
      const [asText] = messages(value, 1);
      return [String(messages(pair, 1)[0]), asText ? asText.toString() : numberOf(value, 3)];
    }),
  );
}

function messages(message: Buffer, field: number): Buffer[] {
  return fieldsOf(message).flatMap(({ number, value }) =>
    number === field && Buffer.isBuffer(value) ? [value] : [],
  );
}

function numberOf(message: Buffer, field: number): number {
  const found = fieldsOf(message).find(({ number }) => number === field)?.value;
  return typeof found === 'bigint' ? Number(found) : 0;
}

/** The wire format of protobuf: a key of field number and type, then a varint, 8 bytes, 4 bytes, or a length and as many bytes. */
function fieldsOf(message: Buffer): { number: number; value: bigint | Buffer }[] {
  const fields: { number: number; value: bigint | Buffer }[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = BigInt(message.readUInt8(at++));
      value |= (byte & 0x7fn) << shift;
      if (byte < 0x80n) return value;
    }
  };
  const take = (length: number): Buffer => message.subarray(at, (at += length));
  while (at < message.length) {
    const key = Number(varint());
    const type = key & 7;
    const value = type === 0 ? varint() : take(type === 2 ? Number(varint()) : type === 1 ? 8 : 4);
    fields.push({ number: key >> 3, value });
  }
  return fields;
}
