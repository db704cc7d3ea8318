/** A resource in every spelling that its files need. */
export interface Names {
  /** `order-items`: folder, URL, scope. */
  plural: string;
  /** `order_items`: table. */
  table: string;
  /** `order_item`: prepared statements. */
  statement: string;
  /** `orderItems`, `orderItem`, `OrderItem`, `OrderItems`. */
  pluralCamel: string;
  camel: string;
  pascal: string;
  pluralPascal: string;
  /** `order item`: messages. */
  text: string;
  pluralText: string;
}

export const TYPES = ['text', 'int', 'number', 'boolean', 'date', 'timestamp', 'uuid'] as const;

export interface Field {
  /** In JSON. */
  name: string;
  column: string;
  type: (typeof TYPES)[number];
  optional: boolean;
}

/** What Postgres reserves (pg_get_keywords, catcode R and T): such a name would need quotes in every statement. */
export const RESERVED = new Set(
  `all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
  column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
  current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
  from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
  localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
  returning right select session_user similar some symmetric system_user table tablesample then to trailing true union
  unique user using variadic verbose when where window with`.split(/\s+/),
);
/** What every resource has already. */
const OWN_COLUMNS = ['id', 'tenant', 'version', 'created_at', 'updated_at'];

/**
 * @param plural as the URL has it, such as `order-items`
 * @param singular derived when it is undefined
 * @throws Error that says what is wrong with the name
 */
export function spellResource(plural: string, singular = deriveSingular(plural)): Names {
  for (const name of [plural, singular]) {
    if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name) || name.length > 40)
      throw new Error(`"${name}" is no name of a resource: use lower case and dashes, such as order-items`);
  }
  const table = plural.replaceAll('-', '_');
  if (RESERVED.has(table))
    throw new Error(`"${plural}" is a reserved word of SQL: take another name, such as ${plural}s`);
  return {
    plural,
    table,
    statement: singular.replaceAll('-', '_'),
    pluralCamel: camel(plural),
    camel: camel(singular),
    pascal: pascal(singular),
    pluralPascal: pascal(plural),
    text: singular.replaceAll('-', ' '),
    pluralText: plural.replaceAll('-', ' '),
  };
}

/** @param text such as `email:text?`; @throws Error that says what is wrong with it */
export function parseField(text: string): Field {
  const [, name = '', type = '', mark] = /^([A-Za-z]\w*):(\w+)(\?)?$/.exec(text) ?? [];
  if (!name)
    throw new Error(`"${text}" is no field: write NAME:TYPE, or NAME:TYPE? for one that may be missing`);
  const known = TYPES.find((each) => each === type);
  if (!known) throw new Error(`${text}: there is no type "${type}"; there are ${TYPES.join(', ')}`);
  const column = name.replaceAll(/(?<=[a-z0-9])([A-Z])/g, '_$1').toLowerCase();
  if (RESERVED.has(column)) throw new Error(`"${name}" is a reserved word of SQL: take another name`);
  if (OWN_COLUMNS.includes(column)) throw new Error(`every resource has "${name}" already: leave it out`);
  return { name: camel(column.replaceAll('_', '-')), column, type: known, optional: mark !== undefined };
}

function deriveSingular(plural: string): string {
  if (/[^aeiou]ies$/.test(plural)) return plural.replace(/ies$/, 'y');
  if (/(ss|us|x|z|ch|sh)es$/.test(plural)) return plural.slice(0, -2);
  return /(ss|us|is|ews)$/.test(plural) ? plural : plural.replace(/s$/, '');
}

function camel(name: string): string {
  return name.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function pascal(name: string): string {
  return camel(`-${name}`);
}
