/**
 * The rooms of src from the top to the ground: each may import what stands below it, and itself. So nothing but the
 * wiring reads `config`: a concern declares the options that it takes.
 */
const FLOORS = [
  ['main', 'cli'],
  ['app', 'internal-app'],
  ['dependencies'],
  ['config'],
  ['features'],
  ['rate-limit', 'idempotency'],
  ['auth'],
  ['cache', 'openapi', 'upstream'],
  ['http'],
  ['migrations'],
  ['postgres', 'redis'],
  ['observability'],
  ['lib', 'errors'],
];
const room = (names) => `^src/(${names.join('|')})(/|[.]ts$)`;

const floors = FLOORS.map((rooms, index) => ({
  name: `below-${rooms.join('-')}`,
  comment: `src/${rooms.join(', src/')}: only what stands below may be imported`,
  severity: 'error',
  from: { path: room(rooms) },
  to: { path: room(FLOORS.slice(0, index + 1).flat()), pathNot: ['^src/$1(/|[.]ts$)'] },
}));

export default {
  forbidden: [
    ...floors,
    {
      name: 'known-room',
      comment: 'A new room of src needs its floor in .dependency-cruiser.mjs',
      severity: 'error',
      from: {},
      to: { path: '^src/', pathNot: room(FLOORS.flat()) },
    },
    {
      name: 'no-circle',
      comment: 'No circle of imports, not even of types',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'features-apart',
      comment: 'A feature imports no other feature',
      severity: 'error',
      from: { path: '^src/features/([^/]+)/' },
      to: { path: '^src/features/', pathNot: '^src/features/$1/' },
    },
    {
      name: 'fastify-in-plugins',
      comment: 'Of a concern one file, plugin.ts, works with Fastify; the others know its types at most',
      severity: 'error',
      from: {
        path: '^src/',
        pathNot:
          '^src/(app|internal-app)[.]ts$|^src/(http|openapi)/|/plugin[.]ts$|^src/features/[^/]+/\\w*-?routes[.]ts$',
      },
      to: { path: 'node_modules/(@fastify/|fastify)', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'nothing-of-the-workshop',
      comment: 'The image holds src alone',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(tools|proofs|test|scripts)/' },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^dist/' },
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'types', 'node', 'default'],
    },
  },
};
