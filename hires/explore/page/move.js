// One to three chosen points, the place between them, and the picture there.
import { ask, newest, number } from './api.js';
import { Pad } from './pad.js';

const LETTERS = ['A', 'B', 'C'];
const ROUND = 4000; // milliseconds from one point to the next when it plays
const $ = (id) => document.getElementById(id);

export class Move {
  /** onChange(letters): which seeds are chosen now, as a map from seed to letter. */
  constructor(onChange) {
    this.onChange = onChange;
    this.points = []; // {seed} or {code}, and name, picture
    this.weights = [];
    this.truncation = 1;
    this.shown = null; // what the preview shows: the server's answer, and the request it answers
    this.pad = new Pad($('pad'), (weights) => this.go(weights, true));
    this.preview = newest((request) => this.show(request));
    this.renew = newest((truncation) => this.thumbs(truncation));
    $('between').addEventListener('input', (event) => this.go([1 - event.target.value, Number(event.target.value)], true));
    $('path').addEventListener('change', () => this.request());
    $('play').addEventListener('click', () => this.play($('play').getAttribute('aria-pressed') !== 'true'));
    $('chosen').addEventListener('click', (event) => {
      const button = event.target.closest('button');
      if (!button) return;
      this.remove([...$('chosen').children].indexOf(button));
      ($('chosen').lastElementChild ?? $('grid').querySelector('[tabindex="0"]'))?.focus(); // the focused one is gone
    });
  }

  /** Chooses a point, or lets it go where it is chosen; a fourth takes the place of the third. */
  toggle(point) {
    const at = this.points.findIndex((other) => other.key === point.key);
    if (at >= 0) return this.remove(at);
    this.points = [...this.points.slice(0, 2), point];
    this.changed();
  }

  remove(at) {
    this.points.splice(at, 1);
    this.changed();
  }

  changed() {
    const count = this.points.length;
    this.play(false);
    $('chosen').replaceChildren(...this.points.map((point, i) => {
      const button = document.createElement('button');
      button.innerHTML = '<img alt=""><span class="badge"></span><span class="name"></span>';
      button.setAttribute('aria-label', `${LETTERS[i]}: ${point.name}; let it go`);
      button.title = 'Let it go';
      button.querySelector('img').src = point.picture;
      button.querySelector('.badge').textContent = LETTERS[i];
      button.querySelector('.name').textContent = point.name;
      return button;
    }));
    $('hint').hidden = count > 1;
    $('stage').hidden = count === 0;
    $('way').hidden = count !== 2;
    $('pad').toggleAttribute('hidden', count !== 3); // an SVG element has no property of that name
    $('play').hidden = $('path').parentElement.hidden = count < 2;
    if (count === 3) this.pad.corners(this.points.map((point) => point.picture));
    this.onChange(new Map(this.points.map((point, i) => [point.seed, LETTERS[i]])));
    if (count) this.go(this.points.map(() => 1 / count));
    else this.shown = null;
  }

  /** To a place between the points; by a person's hand it ends the playing. */
  go(weights, byHand = false) {
    if (byHand) this.play(false);
    this.weights = weights;
    if (weights.length === 2) $('between').value = weights[1];
    if (weights.length === 3) this.pad.show(weights);
    this.request();
  }

  request() {
    if (!this.points.length) return;
    const points = this.points.map(({ seed, code }) => (code ? { code } : { seed }));
    const names = this.points.map((point) => point.key);
    this.preview({ names, body: { points, weights: this.weights, path: $('path').value, truncation: this.truncation } });
  }

  async show({ names, body }) {
    const answer = await ask('/api/decode', body);
    this.shown = { ...answer, names, weights: body.weights };
    $('view').src = answer.picture;
    $('view').dataset.weights = body.weights.map((weight) => weight.toFixed(3)).join(' ');
    const shares = body.weights.map((weight, i) => `${LETTERS[i]} ${Math.round(weight * 100)} %`).join(' · ');
    $('view').alt = names.length > 1 ? `The picture at ${shares}` : `The picture of ${names[0]}`;
    $('told').textContent = `${names.length > 1 ? `${shares}\n` : ''}energy\u00a0${number(answer.energy)}, |z|\u00a0${number(answer.norm, 1)}`;
  }

  /** Another truncation: the points of seeds look different now. */
  truncate(truncation) {
    this.truncation = truncation;
    this.request();
    this.renew(truncation);
  }

  async thumbs(truncation) {
    const seeds = this.points.map((point) => point.seed).filter((seed) => seed !== undefined);
    if (!seeds.length) return;
    const { pictures } = await ask('/api/sample', { seeds, truncation });
    for (const { seed, picture } of pictures) {
      const at = this.points.findIndex((point) => point.seed === seed);
      if (at < 0) continue;
      this.points[at].picture = picture;
      $('chosen').children[at].querySelector('img').src = picture;
    }
    if (this.points.length === 3) this.pad.corners(this.points.map((point) => point.picture));
  }

  /** From point to point and back to the first, over and over, slow at each. */
  play(on) {
    $('play').setAttribute('aria-pressed', String(on));
    $('play').textContent = on ? 'Stop' : 'Play';
    cancelAnimationFrame(this.frame);
    if (!on) return;
    const begun = performance.now();
    const step = (now) => {
      const count = this.points.length;
      const turn = (now - begun) / ROUND;
      const from = Math.floor(turn) % count;
      const share = (1 - Math.cos(Math.PI * (turn % 1))) / 2;
      this.go(this.points.map((_, i) => (i === from ? 1 - share : i === (from + 1) % count ? share : 0)));
      this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }
}
