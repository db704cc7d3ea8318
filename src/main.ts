import { boundYoungGeneration } from './young-generation.ts';

boundYoungGeneration();
// Only now: to load the modules of the service is what makes the young generation grow first.
const { runService } = await import('./service.ts');
await runService();
