// The drawn pictures: cells that are chosen by click, tap or key, in order of seed or of energy.
import { ask, newest, number, say } from './api.js';

export class Grid {
  /** onChoose({seed, picture}) when a cell is chosen or let go. */
  constructor(root, atOnce, onChoose) {
    this.root = root;
    this.atOnce = atOnce;
    this.cells = new Map(); // seed -> {button, seed, picture, energy}
    this.sorted = false;
    this.letters = new Map(); // seed -> A, B, C
    this.draw = newest((given, stale) => this.fill(given, stale));
    root.addEventListener('click', (event) => {
      const cell = this.cells.get(Number(event.target.closest('.cell')?.dataset.seed));
      if (cell?.picture) onChoose(cell);
    });
    root.addEventListener('keydown', (event) => this.key(event));
  }

  /** Pictures of seeds, a few at a time; the cells stay where only the truncation differs. */
  async fill({ seeds, truncation }, stale) {
    if (seeds.join() !== [...this.cells.keys()].join()) this.lay(seeds);
    this.root.setAttribute('aria-busy', 'true');
    for (let i = 0; i < seeds.length && !stale(); i += this.atOnce) {
      say(`drawing ${Math.min(i + this.atOnce, seeds.length)} of ${seeds.length} …`);
      const { pictures } = await ask('/api/sample', { seeds: seeds.slice(i, i + this.atOnce), truncation });
      for (const { seed, picture, energy } of pictures) {
        const cell = Object.assign(this.cells.get(seed), { picture, energy });
        cell.button.querySelector('img').src = picture;
        cell.button.querySelector('.energy').textContent = number(energy);
        cell.button.classList.remove('empty');
      }
      this.rank();
    }
    if (stale()) return;
    this.root.setAttribute('aria-busy', 'false');
    const energies = [...this.cells.values()].map((cell) => cell.energy).filter((energy) => energy !== null);
    const range = energies.length ? `energy ${number(Math.min(...energies))} to ${number(Math.max(...energies))}` : 'no energies';
    say(`seeds ${seeds[0]}–${seeds.at(-1)}, ${range}; lower is more like the data`);
  }

  lay(seeds) {
    this.cells = new Map(seeds.map((seed) => {
      const button = document.createElement('button');
      button.className = 'cell empty';
      button.dataset.seed = seed;
      button.innerHTML = '<img alt=""><span class="badge"></span><span class="under"><span class="seed"></span><span class="energy"></span></span>';
      button.querySelector('.seed').textContent = seed;
      return [seed, { button, seed, picture: null, energy: null }];
    }));
    this.root.replaceChildren(...[...this.cells.values()].map((cell) => cell.button));
    this.focus(this.root.firstElementChild, false);
    this.mark(this.letters);
  }

  /** Every cell's place among the energies, and its place on the page. */
  rank() {
    const known = [...this.cells.values()].filter((cell) => cell.picture);
    const rest = [...this.cells.values()].filter((cell) => !cell.picture);
    const up = known.toSorted((a, b) => (a.energy ?? Infinity) - (b.energy ?? Infinity) || 0);
    up.forEach((cell, i) => cell.button.style.setProperty('--rank', up.length > 1 ? i / (up.length - 1) : 0));
    const order = this.sorted ? [...up, ...rest] : [...this.cells.values()];
    const focused = document.activeElement;
    if (order.some((cell, i) => cell.button !== this.root.children[i])) {
      this.root.append(...order.map((cell) => cell.button));
      if (this.root.contains(focused)) focused.focus({ preventScroll: true }); // moving a node takes its focus
    }
    this.mark(this.letters);
  }

  sort(sorted) {
    this.sorted = sorted;
    this.rank();
  }

  /** Shows which seeds are chosen, by their letters. */
  mark(letters) {
    this.letters = letters;
    for (const { button, seed, energy, picture } of this.cells.values()) {
      const letter = letters.get(seed) ?? '';
      button.querySelector('.badge').textContent = letter;
      button.setAttribute('aria-pressed', String(letter !== ''));
      button.setAttribute('aria-label', `seed ${seed}${picture ? `, energy ${number(energy)}` : ''}${letter && `, chosen as ${letter}`}`);
    }
  }

  /** Cells as they are on the page, drawn ones only. */
  shown() {
    return [...this.root.children].map((button) => this.cells.get(Number(button.dataset.seed))).filter((cell) => cell.picture);
  }

  get columns() {
    return getComputedStyle(this.root).gridTemplateColumns.split(' ').length;
  }

  key(event) {
    const cells = [...this.root.children];
    const at = cells.indexOf(event.target.closest('.cell'));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, Home: -at, End: cells.length - 1 - at }[event.key];
    if (at < 0 || step === undefined) return;
    event.preventDefault();
    this.focus(cells[at + step], true);
  }

  focus(button, move) {
    if (!button) return;
    for (const other of this.root.children) other.tabIndex = other === button ? 0 : -1;
    if (move) button.focus();
  }
}
