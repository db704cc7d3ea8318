// Goes with the example: src/features/orders
import t from 'tap';
import { newOrder, startTestApp } from './support/app.ts';

t.test('the service answers with a key and refuses without one', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();

  t.equal((await request('GET', '/v1/orders')).status, 401);
  const created = await request('POST', '/v1/orders', { token, body: newOrder() });
  t.equal(created.status, 201, created.text);
  t.equal((await request('GET', String(created.headers.location), { token })).status, 200);
});
