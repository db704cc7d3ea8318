import type { Principal } from './key-check.ts';

/** Whose key it is, and in which request. */
export interface Caller {
  principal: Principal;
  tenant: string;
  requestId: string;
}

/** The caller of a request below /v1, which the auth plugin has let in. */
export function callerOf({ principal, id }: { principal: Principal | null; id: string }): Caller {
  if (!principal) throw new Error('this route is outside of the authenticated scope');
  return { principal, tenant: principal.tenant, requestId: id };
}
