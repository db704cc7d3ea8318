/** Value of one series of an exposition by its exact name and labels, as Prometheus would read it; 0 when it is not there. */
export function readSeries(metrics: string, series: string): number {
  const line = metrics.split('\n').find((candidate) => candidate.startsWith(`${series} `));
  return Number(line?.slice(series.length + 1) ?? 0);
}
