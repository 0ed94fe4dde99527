// The Pareto front: the points that no other point beats in both numbers.

// Indices of the front in the order of x. `points` are { x, y, isEarly }; `lower` says for both whether lower is better.
// The numbers of a run that was pruned, failed or still works are those of an early step (isEarly): they do not count.
export function paretoFront(points, lower = [true, true]) {
  const sign = lower.map((is) => (is ? 1 : -1));
  const order = points.map((_, index) => index).filter((index) => !points[index].isEarly).sort((a, b) => sign[0] * (points[a].x - points[b].x) || sign[1] * (points[a].y - points[b].y));
  const front = [];
  let best = Infinity, bestX = NaN;
  for (const index of order) {
    const y = sign[1] * points[index].y;
    const isEqual = y === best && points[index].x === bestX;
    if (y < best || isEqual) front.push(index);
    if (y < best) [best, bestX] = [y, points[index].x];
  }
  return front.sort((a, b) => points[a].x - points[b].x || a - b);
}
