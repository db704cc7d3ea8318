import { isPrivateHost } from './config-hosts.ts';
import { splitList, textSchema, type Kind } from './config-kinds.ts';

/** Where spans go, and with which headers; undefined for no tracing. */
export interface TracingConfig {
  /** The whole URL, with the path of the signal. */
  url: string;
  protocol: (typeof OTLP_PROTOCOLS)[number];
  headers: Record<string, string>;
}

export const OTLP_PROTOCOLS = ['http/protobuf', 'http/json'] as const;
export const OTLP_EXPORTERS = ['otlp', 'none'] as const;

export const collectorUrl: Kind<string> = {
  schema: textSchema((text, refuse) => {
    if (text === '') return text;
    if (!/^https?:\/\/\S+$/.test(text) || !URL.canParse(text)) refuse('is not a URL of http:// or https://');
    else {
      const { protocol, hostname, username, password, search, hash } = new URL(text);
      if (username + password !== '') refuse('holds a login; send it with OTEL_EXPORTER_OTLP_HEADERS');
      if (search + hash !== '') refuse('has more than a path');
      if (protocol === 'http:' && !isPrivateHost(hostname.replace(/^\[(.*)\]$/, '$1')))
        refuse('leaves the private network without TLS; write https://');
    }
    return text;
  }),
  allowed: 'http://HOST:PORT inside the private network, https:// everywhere',
  example: 'http://collector:4318',
  // Some vendors put a token into the path.
  secret: 'url',
};

/** `name=value,name=value`, percent-encoded as in W3C Baggage. Entries are named by number: nothing is shown. */
export const headerList: Kind<Record<string, string>> = {
  schema: textSchema((text, refuse) => {
    const headers: Record<string, string> = {};
    for (const [index, entry] of splitList(text).entries()) {
      const [, name, value = ''] = /^([\w!#$%&'*+.^`|~-]+)\s*=\s*(.*)$/.exec(entry) ?? [];
      const decoded = decode(value);
      if (name === undefined) refuse(`entry ${index + 1} is not name=value`);
      else if (decoded === undefined) refuse(`entry ${index + 1} is not percent-encoded text`);
      else headers[name.toLowerCase()] = decoded;
    }
    return headers;
  }),
  allowed: 'name=value, separated by commas, with special characters percent-encoded',
  example: 'authorization=Bearer%20TOKEN',
  secret: 'whole',
};

/** Undefined for what no header can hold. */
function decode(value: string): string | undefined {
  try {
    const text = decodeURIComponent(value);
    return /^[\x20-\x7e]*$/.test(text) ? text : undefined;
  } catch {
    return undefined;
  }
}

export interface TracingValues {
  OTEL_EXPORTER_OTLP_ENDPOINT: string;
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: string;
  OTEL_EXPORTER_OTLP_PROTOCOL: TracingConfig['protocol'];
  OTEL_EXPORTER_OTLP_HEADERS: Record<string, string>;
  OTEL_TRACES_EXPORTER: (typeof OTLP_EXPORTERS)[number];
  OTEL_SDK_DISABLED: boolean;
}

export function toTracingConfig(values: TracingValues): TracingConfig | undefined {
  const endpoint = values.OTEL_EXPORTER_OTLP_ENDPOINT;
  const url =
    values.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || (endpoint && `${endpoint.replace(/\/$/, '')}/v1/traces`);
  const off = values.OTEL_SDK_DISABLED || values.OTEL_TRACES_EXPORTER === 'none';
  if (url === '' || off) return undefined;
  return {
    url,
    protocol: values.OTEL_EXPORTER_OTLP_PROTOCOL,
    headers: values.OTEL_EXPORTER_OTLP_HEADERS,
  };
}
