import processOnSpawn from 'process-on-spawn';

// tap has every program that a test starts record which files it loads, for a coverage that nobody measures here. A
// service would take half as long again to start, and would not be what runs in production.
processOnSpawn.removeAllListeners();
delete process.env.NODE_OPTIONS;
