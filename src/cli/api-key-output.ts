import type { IssuedApiKey } from '../auth/administration.ts';
import type { ApiKey } from '../auth/repository.ts';
import { formatTable } from './table.ts';

export function describeIssued({ key, token }: IssuedApiKey): string {
  return `API key: ${token}
Id: ${key.id}, tenant: ${key.tenant}, scopes: ${key.scopes.join(',')}
Keep it now: it is stored as a digest only and cannot be shown again.`;
}

export function describeList(keys: ApiKey[]): string {
  if (keys.length === 0) return 'No keys.';
  const rows = keys.map((key) => [
    key.id,
    key.tenant,
    stateOf(key),
    `…${key.hint}`,
    String(key.limitPerMinute ?? 'default'),
    key.lastUsedAt ?? 'never',
    key.scopes.join(','),
    key.name,
  ]);
  return formatTable([['ID', 'TENANT', 'STATE', 'ENDS IN', 'LIMIT', 'LAST USED', 'SCOPES', 'NAME'], ...rows]);
}

function stateOf({ revokedAt, expiresAt, replacedBy }: ApiKey): string {
  if (revokedAt) return 'revoked';
  if (expiresAt && Date.parse(expiresAt) <= Date.now()) return 'expired';
  return replacedBy ? 'rotated' : 'active';
}
