import { isLoopback, isPrivateHost } from './config-hosts.ts';
import { textSchema, type Kind, type Refuse } from './config-kinds.ts';
import { isPlaceholder } from './config-secrets.ts';
import { parseRedisUrl, redactRedisUrl } from './stores/redis-url.ts';

export const redisUrl: Kind<string> = {
  schema: textSchema(readRedisUrl),
  allowed:
    'redis://:PASSWORD@HOST:PORT/DB, redis+sentinel://:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB (the sentinels) or ' +
    'redis+cluster://:PASSWORD@HOST:PORT,HOST:PORT inside the private network, rediss for redis (TLS) everywhere; ' +
    'make a password with: openssl rand -hex 24',
  example: 'redis://:PASSWORD@redis:6379/0',
  secret: 'url',
};

function readRedisUrl(text: string, refuse: Refuse): string {
  if (text === '') return text;
  const target = parseRedisUrl(text, refuse);
  if (!target) return text;
  const hosts = target.hosts.map(({ host }) => host);
  const passwords = [target.password, target.sentinel.password];
  if (passwords.some(isPlaceholder) && !hosts.every(isLoopback)) refuse('has a placeholder for a password');
  if (!target.tls && !hosts.every(isPrivateHost)) {
    const mended = redactRedisUrl(text.replace('redis', 'rediss')) ?? '';
    refuse(`leaves the private network without TLS; write ${mended}`);
  }
  return text;
}
