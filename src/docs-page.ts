import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

/** A file of the page: read when somebody asks for it, not at start. */
export interface DocsFile {
  type: string;
  read: () => string | Promise<Buffer>;
}

/** Relative URLs: a proxy may serve all of this below a path of its own. */
export const DOCS_PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>API documentation</title>
    <link rel="stylesheet" href="docs/swagger-ui.css" />
    <link rel="icon" type="image/png" href="docs/favicon-32x32.png" />
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="docs/swagger-ui-bundle.js"></script>
    <script src="docs/start.js"></script>
  </body>
</html>
`;

/** Wider than the policy of the API by what the page needs: its own files, its own origin, pictures in the style sheet. */
export const DOCS_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Without `persistAuthorization` keys stay in the memory of the page. */
const START = `SwaggerUIBundle({
  dom_id: '#swagger-ui',
  url: 'openapi.json',
  deepLinking: true,
  displayRequestDuration: true,
});
`;

/** Everything below /docs, by name. */
export const DOCS_FILES: ReadonlyMap<string, DocsFile> = new Map([
  ['start.js', { type: 'text/javascript; charset=utf-8', read: () => START }],
  asset('swagger-ui-bundle.js', 'text/javascript; charset=utf-8'),
  asset('swagger-ui.css', 'text/css; charset=utf-8'),
  asset('favicon-32x32.png', 'image/png'),
]);

function asset(name: string, type: string): [string, DocsFile] {
  const { resolve } = createRequire(import.meta.url);
  return [name, { type, read: () => readFile(resolve(`@fastify/swagger-ui/static/${name}`)) }];
}
