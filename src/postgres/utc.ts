/** SQL for a moment as clients get it: UTC, RFC 3339, milliseconds; the same whatever DateStyle and time zone are. */
export function utcText(column: string): string {
  return `to_char(${column} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
}
