import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';

const FORMAT = 'sealed-1';
const IV_BYTES = 12;
const TAG_BYTES = 16;

export type Sealer = ReturnType<typeof createSealer>;

/**
 * Encrypts what may stand in the database but not be read there: AES-256-GCM, under a key that HKDF derives
 * from SECRET_KEY for one purpose. The value names the version of its key. Without SECRET_KEY nothing is kept
 * of what is sealed.
 */
export function createSealer(secretKey: string, purpose: string) {
  const derive = (part: string, bytes: number) =>
    Buffer.from(hkdfSync('sha256', secretKey, '', `hardpoint ${purpose} ${part}`, bytes));
  const key = derive('key', 32);
  const prefix = `${FORMAT}.${derive('version', 6).toString('base64url')}.`;

  return {
    /** `context` says whose value it is: it cannot be read as anybody else's. */
    seal(text: string, context: string): string {
      if (secretKey === '') return `${FORMAT}.`;
      const iv = randomBytes(IV_BYTES);
      const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(context));
      const sealed = Buffer.concat([iv, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()]);
      return prefix + sealed.toString('base64url');
    },

    /** Undefined for what this secret cannot open: it was changed, was not set, or the value is damaged. */
    unseal(value: string, context: string): string | undefined {
      if (secretKey === '' || !value.startsWith(prefix)) return undefined;
      const sealed = Buffer.from(value.slice(prefix.length), 'base64url');
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, IV_BYTES))
          .setAAD(Buffer.from(context))
          .setAuthTag(sealed.subarray(-TAG_BYTES));
        const text = decipher.update(sealed.subarray(IV_BYTES, -TAG_BYTES));
        return Buffer.concat([text, decipher.final()]).toString();
      } catch {
        return undefined;
      }
    },
  };
}
