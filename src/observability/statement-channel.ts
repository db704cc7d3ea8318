import { tracingChannel } from 'node:diagnostics_channel';

/** One SQL statement on its way. Neither values nor text are told: both may hold what nobody else may see. */
export interface StatementEvent {
  /** The name of the prepared statement; BEGIN and the like have none. */
  name: string | undefined;
  /** The first word of the statement, in capitals. */
  operation: string;
  host: string;
  port: number;
  database: string | undefined;
}

/** Every statement, for who traces; as ioredis tells its commands. Without a listener nothing is told. */
export const statementChannel = tracingChannel<unknown, StatementEvent>('postgres:statement');
