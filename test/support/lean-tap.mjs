import Module, { syncBuiltinESMExports } from 'node:module';
import processOnSpawn from 'process-on-spawn';

// tap looks at every module that a test loads, and at what each program that a test starts loads, for coverage and
// for mocks. Neither is used here, and a service would take half as long again to start and not be what runs in
// production. Loaded before tap (NODE_OPTIONS in .taprc).
const { register } = Module;
Module.register = (specifier, ...rest) => {
  if (!String(specifier).includes('/@tapjs/')) register(specifier, ...rest);
};
syncBuiltinESMExports();
processOnSpawn.addListener = () => undefined;
