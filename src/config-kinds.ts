import { isIP } from 'node:net';
import { z } from 'zod';

/** A kind of value: how its text is read, and in words what is allowed. */
export interface Kind<T> {
  schema: z.ZodType<T, string>;
  allowed: string;
  example?: string;
  /** `whole` is never shown; `url` is shown without its password. Both may come from a file, NAME_FILE. */
  secret?: 'whole' | 'url';
}

/** Adds a reason why the text is refused; it may be called several times for one text. */
export type Refuse = (reason: string) => void;

/** Builds a schema from a function; what it returns after a refusal is ignored. */
export function textSchema<T>(read: (text: string, refuse: Refuse) => T): z.ZodType<T, string> {
  return z
    .string()
    .transform((text, context) =>
      read(text, (message) => context.addIssue({ code: 'custom', message, input: undefined })),
    );
}

/** Splits a comma list; blanks around the parts do not count, empty parts are dropped. */
export function splitList(text: string): string[] {
  const parts = text.split(',').map((part) => part.trim());
  return parts.filter((part) => part !== '');
}

/** Digits only: Number() alone would also take ' ', 1e3 and 0x10. */
export function wholeNumber(min: number, max: number): Kind<number> {
  return {
    schema: bounded(/^(0|[1-9]\d*)$/, 'is not a whole number', min, max),
    allowed: `a whole number from ${min} to ${max}`,
  };
}

export function decimalNumber(min: number, max: number): Kind<number> {
  return {
    schema: bounded(/^(0|[1-9]\d*)(\.\d{1,3})?$/, 'is not a plain number', min, max),
    allowed: `a number from ${min} to ${max}, with up to 3 decimals`,
  };
}

function bounded(pattern: RegExp, message: string, min: number, max: number): z.ZodType<number, string> {
  const range = z.number().min(min, `is less than ${min}`).max(max, `is more than ${max}`);
  return z.string().regex(pattern, message).transform(Number).pipe(range);
}

const YES = new Set(['true', '1', 'yes', 'on']);
const NO = new Set(['false', '0', 'no', 'off']);

export const flag: Kind<boolean> = {
  schema: textSchema((text, refuse) => {
    const word = text.toLowerCase();
    if (!YES.has(word) && !NO.has(word)) refuse('is neither true nor false');
    return YES.has(word);
  }),
  allowed: 'true or false (also 1/0, yes/no, on/off)',
};

/** One word of a closed list, in any case; `aliases` are accepted for other words of the list. */
export function oneOf<const Word extends string>(
  words: readonly Word[],
  aliases: Record<string, Word> = {},
): Kind<Word> {
  return {
    schema: z
      .string()
      .transform((text) => aliases[text.toLowerCase()] ?? text.toLowerCase())
      .pipe(z.enum(words, 'is not in the list')),
    allowed: `one of ${words.join(', ')}`,
  };
}

export function matching(pattern: RegExp, allowed: string): Kind<string> {
  return { schema: z.string().regex(pattern, 'does not have the right form'), allowed };
}

export const bindAddress: Kind<string> = {
  schema: textSchema((text, refuse) => {
    if (isIP(text) === 0 && text !== 'localhost') refuse('is not an IP address');
    return text;
  }),
  allowed: 'an IP address of this machine, or localhost; 0.0.0.0 means all IPv4, :: all',
};
