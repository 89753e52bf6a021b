// A triangle on which one drags: the place of the handle as three weights.

const CORNERS = [[120, 36], [34, 184], [206, 184]];
const SVG = 'http://www.w3.org/2000/svg';

/** Barycentric weights of a place; a place outside counts as the nearest one of the triangle. */
export function weightsOf(x, y) {
  const [[ax, ay], [bx, by], [cx, cy]] = CORNERS;
  const area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy);
  const a = ((by - cy) * (x - cx) + (cx - bx) * (y - cy)) / area;
  const b = ((cy - ay) * (x - cx) + (ax - cx) * (y - cy)) / area;
  const weights = [a, b, 1 - a - b];
  if (weights.every((weight) => weight >= 0)) return weights;
  let best = null;
  for (const [i, j] of [[0, 1], [1, 2], [2, 0]]) {
    const [px, py] = CORNERS[i];
    const [dx, dy] = [CORNERS[j][0] - px, CORNERS[j][1] - py];
    const t = Math.min(1, Math.max(0, ((x - px) * dx + (y - py) * dy) / (dx * dx + dy * dy)));
    const far = Math.hypot(x - px - t * dx, y - py - t * dy);
    if (!best || far < best.far) {
      best = { far, weights: [0, 0, 0] };
      best.weights[i] = 1 - t;
      best.weights[j] = t;
    }
  }
  return best.weights;
}

function placeOf(weights) {
  return [0, 1].map((axis) => weights.reduce((sum, weight, i) => sum + weight * CORNERS[i][axis], 0));
}

function make(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
}

export class Pad {
  /** onMove(weights) while a person drags the handle or moves it with the arrow keys. */
  constructor(svg, onMove) {
    this.svg = svg;
    this.onMove = onMove;
    const line = (weights, other) => make('path', { class: 'line', d: `M${placeOf(weights)}L${placeOf(other)}` }, svg);
    make('path', { class: 'face', d: `M${CORNERS.join('L')}Z` }, svg);
    for (const t of [0.25, 0.5, 0.75]) {
      line([t, 1 - t, 0], [t, 0, 1 - t]);
      line([1 - t, t, 0], [0, t, 1 - t]);
      line([1 - t, 0, t], [0, 1 - t, t]);
    }
    this.pictures = CORNERS.map(([x, y]) => make('image', { x: x - 25, y: y - 25, width: 50, height: 50 }, svg));
    CORNERS.forEach(([x, y], i) => {
      make('circle', { class: 'spot', cx: x - 25, cy: y - 25, r: 9 }, svg);
      make('text', { x: x - 25, y: y - 25 }, svg).textContent = 'ABC'[i];
    });
    this.handle = make('circle', { class: 'handle', r: 11, tabindex: 0, role: 'slider', 'aria-label': 'Between A, B and C' }, svg);
    svg.addEventListener('pointerdown', (event) => {
      svg.setPointerCapture(event.pointerId);
      this.drag(event);
    });
    svg.addEventListener('pointermove', (event) => svg.hasPointerCapture(event.pointerId) && this.drag(event));
    this.handle.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, -6], ArrowDown: [0, 6] }[event.key];
      if (!step) return;
      event.preventDefault();
      const [x, y] = placeOf(this.weights);
      this.move(weightsOf(x + step[0], y + step[1]));
    });
    this.show([1 / 3, 1 / 3, 1 / 3]);
  }

  drag(event) {
    event.preventDefault();
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    this.move(weightsOf(place.x, place.y));
    this.handle.focus({ preventScroll: true });
  }

  move(weights) {
    this.show(weights);
    this.onMove(weights);
  }

  /** Puts the handle there, without telling. */
  show(weights) {
    this.weights = weights;
    const [x, y] = placeOf(weights);
    this.handle.setAttribute('cx', x);
    this.handle.setAttribute('cy', y);
    this.handle.setAttribute('aria-valuetext', weights.map((weight, i) => `${'ABC'[i]} ${Math.round(weight * 100)} %`).join(', '));
  }

  /** The three corners' pictures. */
  corners(addresses) {
    this.pictures.forEach((image, i) => image.setAttribute('href', addresses[i]));
  }
}
