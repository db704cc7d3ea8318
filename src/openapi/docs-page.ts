import type { FastifyHelmetOptions } from '@fastify/helmet';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

/** Swagger UI with relative URLs: a proxy may serve all of this below a path of its own. */
const PAGE = `<!doctype html>
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

/** Without `persistAuthorization` keys stay in the memory of the page. */
const START = `SwaggerUIBundle({
  dom_id: '#swagger-ui',
  url: 'openapi.json',
  deepLinking: true,
  displayRequestDuration: true,
});
`;

/** Wider than the policy of the API by what the page needs: its own files, its own origin, images in the style sheet. */
const POLICY = {
  'default-src': ["'none'"],
  'script-src': ["'self'"],
  'style-src': ["'self'"],
  'img-src': ["'self'", 'data:'],
  'connect-src': ["'self'"],
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'frame-ancestors': ["'none'"],
};

/** Helmet's headers for a page. HSTS belongs to whoever ends TLS. */
export const DOCS_HEADERS: FastifyHelmetOptions = {
  contentSecurityPolicy: { useDefaults: false, directives: POLICY },
  strictTransportSecurity: false,
  // Over plain HTTP a browser ignores these, and says so in its console.
  crossOriginOpenerPolicy: false,
  originAgentCluster: false,
};

const JAVASCRIPT = 'text/javascript; charset=utf-8';

/** Content type and reader. */
export type DocsFile = [type: string, read: () => string | Promise<Buffer>];

export const DOCS_PAGE: DocsFile = ['text/html; charset=utf-8', () => PAGE];

/** Everything below /docs, by name. */
export const DOCS_FILES: Record<string, DocsFile> = {
  'start.js': [JAVASCRIPT, () => START],
  'swagger-ui-bundle.js': [JAVASCRIPT, () => readAsset('swagger-ui-bundle.js')],
  'swagger-ui.css': ['text/css; charset=utf-8', () => readAsset('swagger-ui.css')],
  'favicon-32x32.png': ['image/png', () => readAsset('favicon-32x32.png')],
};

function readAsset(name: string): Promise<Buffer> {
  const { resolve } = createRequire(import.meta.url);
  return readFile(resolve(`@fastify/swagger-ui/static/${name}`));
}
