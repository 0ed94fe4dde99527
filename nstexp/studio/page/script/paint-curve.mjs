// The loss of an optimization over its steps, on a logarithmic scale.

const SPACE = "http://www.w3.org/2000/svg", WIDTH = 260, HEIGHT = 64;

export function makeCurve() {
  const element = document.createElementNS(SPACE, "svg");
  element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  element.setAttribute("class", "paint-curve");
  element.setAttribute("role", "img");
  const line = document.createElementNS(SPACE, "polyline");
  element.append(line);

  function draw(losses, steps) {
    const points = losses.filter(([, loss]) => loss > 0);
    if (points.length < 2) {
      line.setAttribute("points", "");
      element.setAttribute("aria-label", "The loss curve begins with the second step");
      return;
    }
    const logs = points.map(([, loss]) => Math.log(loss));
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    const x = (step) => (step / Math.max(1, steps)) * (WIDTH - 4) + 2;
    const y = (value) => HEIGHT - 4 - ((value - low) / Math.max(1e-9, high - low)) * (HEIGHT - 8);
    line.setAttribute("points", points.map(([step], number) => `${x(step).toFixed(1)},${y(logs[number]).toFixed(1)}`).join(" "));
    element.setAttribute("aria-label", `The loss fell from ${points[0][1].toPrecision(3)} to ${points.at(-1)[1].toPrecision(3)}`);
  }
  return { element, draw };
}
