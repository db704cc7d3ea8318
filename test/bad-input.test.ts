import { connect } from 'node:net';
import t from 'tap';
import { newOrder, startTestApp, type TestApp } from './support/app.ts';
import { withClient, createDatabase } from './support/postgres.ts';

/** Stands in every input where a client may put what it likes, and in no answer. */
const CANARY = 'c4n4ry';
const BODY_LIMIT_BYTES = Math.round(0.063*1024*1024);
const SECRET_KEY = 'only-for-tests-f0e1d2c3b4a59687-7768';

const databaseUrl = await createDatabase(t);
const service = await startTestApp(t, {
  DATABASE_URL: databaseUrl,
  SECRET_KEY,
  MAX_REQUEST_SIZE_MB: '0.063',
  AUTH_FAILURES_PER_MINUTE: '1000000',
});
await service.app.listen({ host: '127.0.0.1', port: 0 });
const port = service.app.addresses()[0]?.port ?? 0;
const { token } = await service.issueKey();
const { id: orderId } = (await service.request('POST', '/v1/orders', { token, body: newOrder() })).json;

interface Answer {
  status: number;
  /** Every header line; names in lower case. */
  headers: [name: string, value: string][];
  body: string;
}

/** Sends bytes as they are, one chunk after the other, and reads until the server closes. */
function send(chunks: (string | Buffer)[], options: { end?: boolean } = {}): Promise<Answer[]> {
  return new Promise((resolve, reject) => {
    const received: Buffer[] = [];
    const socket = connect(port, '127.0.0.1', () => {
      for (const chunk of chunks) socket.write(typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk);
      if (options.end) socket.end();
    });
    socket.setTimeout(5_000, () => socket.destroy(new Error('the server left the connection open')));
    socket.on('data', (chunk) => received.push(chunk));
    // A server that refuses a body half way resets the connection after its answer.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (!/ECONNRESET|EPIPE/.test(error.code ?? '')) reject(error);
    });
    socket.on('close', () => resolve(parseAnswers(Buffer.concat(received).toString('latin1'))));
  });
}

function parseAnswers(text: string): Answer[] {
  const answers: Answer[] = [];
  for (let rest = text; rest.startsWith('HTTP/1.1 '); ) {
    const headEnd = rest.indexOf('\r\n\r\n');
    const [statusLine = '', ...lines] = rest.slice(0, headEnd).split('\r\n');
    const headers = lines.map((line): [string, string] => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    const length = Number(headers.find(([name]) => name === 'content-length')?.[1] ?? 0);
    const bodyAt = headEnd + 4;
    const status = Number(statusLine.split(' ')[1]);
    if (status >= 200) answers.push({ status, headers, body: rest.slice(bodyAt, bodyAt + length) });
    rest = rest.slice(bodyAt + (status >= 200 ? length : 0));
  }
  return answers;
}

interface Parts {
  headers?: string[];
  body?: string | Buffer;
  type?: string | null;
}

/** A request that is valid but for what the arguments say. */
function http(method: string, path: string, { headers = [], body, type = 'application/json' }: Parts = {}): Buffer {
  const bytes = Buffer.from(body ?? '');
  const lines = [
    `${method} ${path} HTTP/1.1`,
    'Host: api.example.com',
    'Connection: close',
    `Authorization: Bearer ${token}`,
    ...(body === undefined ? [] : [`Content-Length: ${bytes.length}`]),
    ...(body === undefined || type === null ? [] : [`Content-Type: ${type}`]),
    ...headers,
  ];
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), bytes]);
}
const rows: [string, Buffer | string, boolean?][] = [];
const HEAD = `Host: api.example.com\r\nConnection: close\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\n`;
const add=(n:string,b:Buffer|string,e?:boolean)=>rows.push([n,b,e]);
const body = JSON.stringify(newOrder({reference:CANARY}));
const L=body.length;
add('CL+TE', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`);
add('dup CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: ${L}\r\nContent-Length: ${L}\r\n\r\n${body}`);
add('differ CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: ${L}\r\nContent-Length: 1\r\n\r\n${body}`);
add('CL list', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: ${L}, ${L}\r\n\r\n${body}`);
add('neg CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: -1\r\n\r\n${body}`);
add('plus CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: +${L}\r\n\r\n${body}`);
add('hex CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: 0x10\r\n\r\n${body}`);
add('huge CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: 99999999999999999999999\r\n\r\n${body}`);
add('big CL', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: 9007199254740991\r\n\r\n${body}`);
add('TE unknown', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: xchunked\r\n\r\n${body}`);
add('TE chunked, identity', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`);
add('TE gzip, chunked', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`);
add('TE twice', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n`);
add('TE http1.0', `POST /v1/orders HTTP/1.0\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`);
add('chunk size bad', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`);
add('chunk size huge', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n`);
add('chunk ext huge', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\n2;${'a'.repeat(20000)}\r\n{}\r\n0\r\n\r\n`);
add('space colon', `GET /v1/orders HTTP/1.1\r\n${HEAD}X-A : b\r\n\r\n`);
add('obs-fold', `GET /v1/orders HTTP/1.1\r\n${HEAD}X-A: b\r\n c: d\r\n\r\n`);
add('bare LF', `GET /v1/orders HTTP/1.1\n${HEAD}\n`);
add('bare LF in headers', `GET /v1/orders HTTP/1.1\r\n${HEAD}X: a\nX-B: b\r\n\r\n`);
add('bare CR', `GET /v1/orders HTTP/1.1\r\n${HEAD}X: a\rX-B: b\r\n\r\n`);
add('no host', `GET /v1/orders HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer ${token}\r\n\r\n`);
add('dup host', `GET /v1/orders HTTP/1.1\r\nHost: evil.example.com\r\n${HEAD}\r\n`);
add('bad host', `GET /v1/orders HTTP/1.1\r\nHost: a b/@c\r\nConnection: close\r\nAuthorization: Bearer ${token}\r\n\r\n`);
add('empty host', `GET /v1/orders HTTP/1.1\r\nHost:\r\nConnection: close\r\nAuthorization: Bearer ${token}\r\n\r\n`);
add('http/1.0 no host', `GET /v1/orders HTTP/1.0\r\nAuthorization: Bearer ${token}\r\n\r\n`);
add('bad method', `GE(T /v1/orders HTTP/1.1\r\n${HEAD}\r\n`);
add('FOO method', `FOO /v1/orders HTTP/1.1\r\n${HEAD}\r\n`);
add('lower', `get /v1/orders HTTP/1.1\r\n${HEAD}\r\n`);
add('0.9', `GET /v1/orders\r\n\r\n`);
add('3.0', `GET /v1/orders HTTP/3.0\r\n${HEAD}\r\n`);
add('h2 preface', `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`);
add('tls hello', Buffer.from('16030100a5010000a10303','hex'), true);
add('garbage', Buffer.from([1,2,3,255,254,0,0,13,10,13,10]), true);
add('NUL header', `GET /v1/orders HTTP/1.1\r\n${HEAD}X: a\0b\r\n\r\n`);
add('NUL path', `GET /v1/ord\0ers HTTP/1.1\r\n${HEAD}\r\n`);
add('space path', `GET /v1/orders x HTTP/1.1\r\n${HEAD}\r\n`);
add('utf8 path', Buffer.from(`GET /v1/örders HTTP/1.1\r\n${HEAD}\r\n`));
add('hdr 16k', http('GET','/v1/orders',{headers:[`X: ${'a'.repeat(17000)}`]}));
add('2000 hdr', http('GET','/v1/orders',{headers:Array(2000).fill('a:b')}));
add('2500 hdr', http('GET','/v1/orders',{headers:Array(2500).fill('a:b')}));
add('100 hdr', http('GET','/v1/orders',{headers:Array(90).fill('a:b')}));
add('url 16k', http('GET',`/v1/orders?x=${'a'.repeat(17000)}`));
add('long param', http('GET',`/v1/orders/${'a'.repeat(201)}`));
add('long unknown', http('GET',`/${'a'.repeat(8000)}`));
add('bad pct', http('GET',`/v1/orders/%zz`));
add('bad pct utf8', http('GET',`/v1/orders/%ff`));
add('bad pct query', http('GET',`/v1/orders?limit=%zz`));
add('pct short', http('GET',`/v1/%`));
add('//', http('GET',`//v1/orders`));
add('dotdot', http('GET',`/v1/../v1/orders`));
add('enc dotdot', http('GET',`/v1/%2e%2e/v1/orders`));
add('enc slash', http('GET',`/v1%2forders`));
add('enc slash param', http('GET',`/v1/orders/a%2fb`));
add('case', http('GET',`/V1/orders`));
add('trailing', http('GET',`/v1/orders/`));
add('semicolon', http('GET',`/v1/orders;x=1`));
add('fragment', http('GET',`/v1/orders#x`));
add('asterisk', http('OPTIONS',`*`));
add('absolute', http('GET',`http://api.example.com/v1/orders`));
add('absolute405', http('PUT',`http://api.example.com/v1/orders`));
add('noslash', http('GET',`v1/orders`));
add('unknown', http('GET',`/v1/${CANARY}`));
add('unknown root', http('GET',`/${CANARY}`));
add('405', http('PUT',`/v1/orders`));
add('405b', http('POST',`/v1/orders/${orderId}`));
add('405 health', http('POST',`/health`));
add('OPTIONS', http('OPTIONS',`/v1/orders`));
add('TRACE', http('TRACE',`/v1/orders`));
add('CONNECT', http('CONNECT',`api.example.com:443`));
add('PROPFIND', http('PROPFIND',`/v1/orders`));
add('PROPFIND unknown', http('PROPFIND',`/xyz`));
add('PROPFIND bad', http('PROPFIND',`/v1/orders/%zz`));
add('SEARCH', http('SEARCH',`/v1/orders`));
add('QUERY', http('QUERY',`/v1/orders`));
const P=(n:string,b:any,x:Parts={})=>add(n,http('POST','/v1/orders',{body:typeof b==='string'||Buffer.isBuffer(b)?b:JSON.stringify(b),...x}));
P('trunc','{"reference":"c4n4ry"'); P('comma','{"a":1,}'); P('NaN','{"a":NaN}'); P('single',"{'a':1}"); P('BOM', Buffer.from('\ufeff'+JSON.stringify(newOrder())));
P('invalid utf8', Buffer.concat([Buffer.from('{"reference":"'),Buffer.from([0xff,0xfe]),Buffer.from('","currency":"EUR","items":[]}')]));
P('utf16', Buffer.from(body,'utf16le'));
P('deep', '['.repeat(30000)+']'.repeat(30000));
P('deep2', '{"items":'+'['.repeat(30000)+']'.repeat(30000)+'}');
P('deep proto', '{"__proto__":1,"items":'+'['.repeat(30000)+']'.repeat(30000)+'}');
P('hugenum', body.replace('1250','1'+'0'.repeat(400)));
P('1e999', body.replace('1250','1e999'));
P('precision', body.replace('1250','9007199254740993'));
P('float', body.replace('1250','12.5'));
P('dup keys', body.replace('"currency":"EUR"','"currency":"EUR","currency":"c4n4ry"'));
P('proto', '{"__proto__":{"x":1},'+body.slice(1));
P('proto esc', '{"__pr\\u006fto__":{"x":1},'+body.slice(1));
P('ctor', '{"constructor":{"prototype":{"x":1}},'+body.slice(1));
add('proto query', http('GET','/v1/orders?__proto__=x'));
add('proto query2', http('GET','/v1/orders?__proto__[x]=x'));
add('ctor query', http('GET','/v1/orders?constructor.prototype=x'));
add('hasOwn query', http('GET','/v1/orders?hasOwnProperty=x'));
P('no type', body, {type:null}); P('text',body,{type:'text/plain'}); P('form','a=b',{type:'application/x-www-form-urlencoded'}); P('multipart','--x\r\n\r\n--x--',{type:'multipart/form-data; boundary=x'});
P('latin1', body, {type:'application/json; charset=latin1'}); P('utf-8', body.replace(CANARY,'okutf8'), {type:'application/json; charset=UTF-8'}); P('jsonx', body, {type:'application/jsonx'}); P('badtype', body, {type:'application/json; charset'}); P('mangled', body, {type:'application'});P('json5', body, {type:'application/problem+json'});P('2types', body, {headers:['Content-Type: text/plain']});
P('gzip', body, {headers:['Content-Encoding: gzip']}); P('empty',''); P('null','null'); P('array','[]'); P('string','"x"'); P('num','1');
add('no body', http('POST','/v1/orders'));
add('no body type', http('POST','/v1/orders',{headers:['Content-Type: application/json']}));
add('CL413', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: ${BODY_LIMIT_BYTES+1}\r\n\r\n{`);
add('CL413 full', http('POST','/v1/orders',{body: Buffer.alloc(BODY_LIMIT_BYTES+1,97)}));
add('chunked413', `POST /v1/orders HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\n${(`4000\r\n${'a'.repeat(0x4000)}\r\n`).repeat(5)}`);
add('get body', http('GET','/v1/orders',{body:'{"a":1}'}));
add('get body over', http('GET','/v1/orders',{body:Buffer.alloc(200000,97)}));
add('delete body', http('DELETE',`/v1/orders/${orderId}`,{body:'{"a":1}',headers:['If-Match: "9"']}));
add('delete body bad', http('DELETE',`/v1/orders/${orderId}`,{body:'{',headers:['If-Match: "9"']}));
add('delete body text', http('DELETE',`/v1/orders/${orderId}`,{body:'{',type:'text/plain',headers:['If-Match: "9"']}));
add('get body notype', http('DELETE',`/v1/orders/${orderId}`,{body:'{',type:null,headers:['If-Match: "9"']}));
for (const a of ['text/html','text/*','application/xml, text/plain','application/json;q=0','application/json;q=0, */*;q=0.5','*/*;q=0','','garbage','application/json;q=2']) add('accept '+a, http('GET','/v1/orders',{headers:['Accept: '+a]}));
const wrong: any = {unknown:{surplus:CANARY}, strnum:{items:[{sku:'A',quantity:'1',unitPriceMinor:1}]}, bool:{items:[{sku:'A',quantity:true,unitPriceMinor:1}]}, nulls:{reference:null}, num:{reference:1}, arr:{reference:[CANARY]}, objitems:{items:{'0':{}}}, long:{reference:CANARY.repeat(11)}, many:{items:Array(101).fill({sku:'A',quantity:1,unitPriceMinor:1})}, none:{items:[]}, neg:{items:[{sku:'A',quantity:-1,unitPriceMinor:1}]}, zero:{items:[{sku:'A',quantity:0,unitPriceMinor:1}]}, over:{items:Array(2).fill({sku:'A',quantity:10000,unitPriceMinor:100000000})}, unicode:{reference:'ünï'+CANARY}, nul:{reference:'a\0b'}, cur:{currency:CANARY}, cur2:{currency:'eur'}, tenant:{tenant:CANARY}, id:{id:orderId}, nested:{items:[{sku:'A',quantity:1,unitPriceMinor:1,surplus:CANARY}]}};
for (const [k,v] of Object.entries(wrong)) P('body '+k, newOrder(v as any));
for (const q of ['limit=0','limit=-1','limit=101','limit=1e3','limit=abc','limit=','limit=1&limit=2','limit[]=1','surplus='+CANARY,'cursor='+CANARY,'cursor=','cursor=%00','cursor='+'a'.repeat(513),'status='+CANARY,'status=paid&status=pending','createdFrom='+CANARY,'createdFrom=2026-02-30T00:00:00Z','createdFrom=2026-01-01','createdFrom=2026-01-01T00:00:00','createdFrom=0000-01-01T00:00:00Z','createdFrom=2026-01-01T23:59:60Z','createdFrom=2026-01-01T24:00:00Z','createdFrom=2026-02-01T00:00:00Z&createdBefore=2026-01-01T00:00:00Z','api_key='+CANARY,'access_token=x','%61pi_key=x','apikey=x','key=x','token=x','api-key=x']) add('list '+q.slice(0,60), http('GET','/v1/orders?'+q));
for (const q of ['','from=2026-01-01','from=x&to=y','from=2026-01-02&to=2026-01-01','from=2026-01-01&to=2027-12-31','from=2026-02-30&to=2026-03-01','from=0000-01-01&to=0000-01-02','from=9999-12-31&to=9999-12-31','from=2026-01-01T00:00:00Z&to=2026-01-02','from=0001-01-01&to=0001-01-02']) add('summary '+q, http('GET','/v1/orders/summary?'+q));
for (const i of ['1','%00','abc','00000000-0000-0000-0000-000000000000','..','%2e%2e',`${orderId}x`,orderId.toUpperCase(),"'%20or%201=1--"]) add('id '+i, http('GET','/v1/orders/'+i));
for (const i of ['"abc"','1','*','W/"1"','"1", "2"','"99999999999"','','"-1"','"1']) add('ifmatch '+i, http('PATCH','/v1/orders/'+orderId,{body:'{"status":"paid"}',headers:['If-Match: '+i]}));
add('ifmatch none', http('PATCH','/v1/orders/'+orderId,{body:'{"status":"paid"}'}));
add('ifmatch twice', http('PATCH','/v1/orders/'+orderId,{body:'{"status":"paid"}',headers:['If-Match: "1"','If-Match: "1"']}));
add('delete ifmatch none', http('DELETE','/v1/orders/'+orderId));
for (const i of ['','a'.repeat(256),'k\xe9y','a b','a\tb']) P('idem '+i.slice(0,10), newOrder(), {headers:['Idempotency-Key: '+i]});
P('idem twice', newOrder(), {headers:['Idempotency-Key: a','Idempotency-Key: b']});
const K=(n:string,b:any)=>add('key '+n,http('POST','/v1/api-keys',{body:JSON.stringify({name:'x',scopes:['orders:read'],...b})}));
K('nul',{name:'a\0b'}); K('surrogate',{name:'\ud800'}); K('past',{expiresAt:'2020-01-01T00:00:00Z'}); K('yr',{expiresAt:'9999-12-31T23:59:59Z'}); K('scope',{scopes:['x']}); K('dupscope',{scopes:['a:b','a:b']}); K('limit',{limitPerMinute:0}); K('ctrl',{name:'a\n\u001b[31mb'});
add('expect', `POST /v1/orders HTTP/1.1\r\n${HEAD}Expect: banana\r\nContent-Length: 2\r\n\r\n{}`);
add('expect100', `POST /v1/orders HTTP/1.1\r\n${HEAD}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}`);
add('expect100 big', `POST /v1/orders HTTP/1.1\r\n${HEAD}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n`);
add('ws', `GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer ${token}\r\n\r\n`, true);
add('h2c', `GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nAuthorization: Bearer ${token}\r\n\r\n`, true);
add('half', 'GET /v1/orders HTTP/1.1\r\nHost: a\r\n', true);
add('half body', `POST /v1/orders HTTP/1.1\r\n${HEAD}Content-Length: 100\r\n\r\n{"a`, true);
add('pipe', `GET /v1/orders/${orderId} HTTP/1.1\r\n${HEAD.replace('Connection: close\r\n','')}\r\nGET /v1 HTTP/9\r\n\r\n`);
add('pipe2', `POST /v1/orders HTTP/1.1\r\n${HEAD.replace('Connection: close\r\n','')}Content-Length: ${body.length}\r\n\r\n${body.replace(CANARY,'pipe-2')}GARBAGE\r\n\r\n`);
for (const h of ['X-API-Key: x','X-API-Key: a\r\nX-API-Key: b']) add('auth '+h, http('GET','/v1/orders',{headers:[h]}));
add('auth twice', http('GET','/v1/orders',{headers:['Authorization: Bearer '+token]}));
add('head', http('HEAD','/v1/nothing'));
let last = 0;
for (const [name, bytes, end] of rows) {
  const from = service.logs.length;
  const started = Date.now();
  let answers: Answer[] = [];
  try { answers = await send([bytes], { end: end ?? false }); } catch (e) { console.log('#####', name, (e as Error).message, Date.now()-started); continue; }
  await new Promise(r=>setTimeout(r,5));
  const lines = service.logs.slice(from).map(l=>`${l.level}:${l.message}:${l.status ?? JSON.stringify((l as any).error?.message ?? l.error ?? '')}`).join(' | ');
  console.log(name.padEnd(28), answers.map(a=>`${a.status} ${a.body.includes('"code"')?JSON.parse(Buffer.from(a.body,'latin1').toString()).code+' '+JSON.parse(Buffer.from(a.body,'latin1').toString()).detail.slice(0,60):a.body.slice(0,50)}${a.body.includes(CANARY)?' <<ECHO':''}`).join(' + ')||'(no answer)', '   LOG', lines, Date.now()-started>300?`SLOW ${Date.now()-started}`:'');
}
void last;
