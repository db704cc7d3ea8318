import { boundHeapGrowth } from './heap-growth.ts';

boundHeapGrowth();
// Only now: to load the modules of the service is what makes the heap grow first.
const { runService } = await import('./service.ts');
await runService();
