// Goes with the example: src/features/orders
import { check, sleep } from 'k6';
import { Counter } from 'k6/metrics';
import { keys, pick, send, unique } from './requests.js';

const NOBODY = '0199d4f0-0000-7000-8000-000000000000';
const users = new Counter('users');

/** Arrivals, as percentages. Together with the users they resemble the load of a real API. */
const ARRIVALS = [
  [54, readHot],
  [12, readAgain],
  [8, list],
  [4, summary],
  [6, readCold],
  [8, create],
  [4, changeTwice],
  [4, sendBad],
];

let isNew = true;

/** One action of a client, with a random key. */
export function arrive(data) {
  let left = Math.random() * 100;
  const [, work] = ARRIVALS.find(([share]) => (left -= share) < 0) || ARRIVALS[0];
  work(Math.floor(Math.random() * keys.length), data);
}

/** A person: pages through orders, opens one, returns to it, and sometimes creates one. */
export function use(data) {
  const index = Math.floor(Math.random() * keys.length);
  const think = () => sleep(0.5 + Math.random());
  for (const work of [list, readHot, readAgain, pick([create, readHot, summary])]) {
    work(index, data);
    think();
  }
  if (isNew) users.add(1);
  isNew = false;
}

export function newOrder(reference) {
  const items = [{ sku: 'LOAD-1', quantity: 2, unitPriceMinor: 1250 }];
  return { reference, currency: 'EUR', items };
}

const isMade = ({ status }) => status === 201;

function readHot(index, { orders }) {
  const id = orders[index][Math.floor(Math.random() ** 3 * orders[index].length)];
  read(index, 'read', id);
}

function read(index, name, id) {
  const answer = send(keys[index], name, 'GET', `/orders/${id}`, [200]);
  check(answer, {
    'read: the order with its ETag': (r) => r.status === 200 && !!r.headers.Etag && r.json('id') === id,
  });
  return answer;
}

function readAgain(index, { orders }) {
  const id = pick(orders[index]);
  const first = read(index, 'read', id);
  const headers = { 'If-None-Match': first.headers.Etag || '' };
  const second = send(keys[index], 'read again', 'GET', `/orders/${id}`, [200, 304], { headers });
  check(second, { 'read again: 304': ({ status }) => status === 304 });
}

/** Reads a new order, which is not cached. */
function readCold(index) {
  const order = send(keys[index], 'create', 'POST', '/orders', [201], { body: newOrder(unique()) });
  if (check(order, { 'create: 201': isMade })) read(index, 'read cold', order.json('id'));
}

/** Up to three pages, without gaps or repetitions. */
function list(index) {
  let cursor = '';
  let last = '~';
  for (let page = 0; page < 3 && cursor !== null; page += 1) {
    const path = `/orders?limit=10${cursor && `&cursor=${encodeURIComponent(cursor)}`}`;
    const answer = send(keys[index], 'list', 'GET', path, [200]);
    const { data = [], next = null } = answer.status === 200 ? answer.json() : {};
    const ids = [last, ...data.map(({ id }) => id)];
    check(answer, {
      'list: pages of orders, newest first': ({ status }) =>
        status === 200 && data.length <= 10 && ids.every((id, at) => at === 0 || id < ids[at - 1]),
    });
    last = ids[ids.length - 1];
    cursor = next;
  }
}

function summary(index) {
  const today = new Date().toISOString().slice(0, 10);
  const answer = send(keys[index], 'summary', 'GET', `/orders/summary?from=${today}&to=${today}`, [200]);
  check(answer, { 'summary: 200': ({ status }) => status === 200 });
}

/** One in four is sent again, as after a timeout. The result is the same order, not a second one. */
function create(index) {
  const reference = unique();
  const sent = { body: newOrder(reference), headers: { 'Idempotency-Key': reference } };
  const first = send(keys[index], 'create', 'POST', '/orders', [201], sent);
  if (!check(first, { 'create: 201': isMade }) || Math.random() > 0.25) return;
  const second = send(keys[index], 'create', 'POST', '/orders', [201], sent);
  check(second, {
    'create again: the same order, replayed': (r) =>
      r.status === 201 && r.json('id') === first.json('id') && r.headers['Idempotency-Replayed'] === 'true',
  });
}

/** Two changes of one version: the second must fail. A reference that exists must be refused. */
function changeTwice(index) {
  const key = keys[index];
  const body = newOrder(unique());
  const order = send(key, 'create', 'POST', '/orders', [201], { body });
  if (!check(order, { 'create: 201': isMade })) return;
  const headers = { 'If-Match': order.headers.Etag };
  const change = (status, expected) =>
    send(key, 'change', 'PATCH', `/orders/${order.json('id')}`, expected, { body: { status }, headers });
  check(change('paid', [200]), { 'change: 200': ({ status }) => status === 200 });
  check(change('cancelled', [412]), { 'change of an old version: 412': ({ status }) => status === 412 });
  check(send(key, 'create', 'POST', '/orders', [409], { body }), {
    'create of a known reference: 409': (r) => r.status === 409 && r.json('code') === 'conflict',
  });
}

/** Mistakes of clients: the response is a problem, and other clients are not affected. */
function sendBad(index, { orders, strangers }) {
  const key = keys[index];
  const isProblem = (status, code) => (r) => r.status === status && r.json('code') === code;
  const bad = send(key, 'bad', 'POST', '/orders', [400], { body: { reference: 1 } });
  check(bad, { 'bad order: 400': isProblem(400, 'validation_failed') });
  const unknown = send(key, 'bad', 'GET', `/orders/${NOBODY}`, [404]);
  check(unknown, { 'unknown order: 404': isProblem(404, 'not_found') });
  if (strangers[index] < 0) return;
  const foreign = send(keys[strangers[index]], 'bad', 'GET', `/orders/${orders[index][0]}`, [404]);
  check(foreign, { 'order of another tenant: 404': isProblem(404, 'not_found') });
}
