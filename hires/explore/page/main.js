// The page: what stands in the address after # is drawn; the rest is put together here.
import { ask, say } from './api.js';
import { saveGrid, savePicture } from './download.js';
import { Grid } from './grid.js';
import { Move } from './move.js';
import { Own } from './own.js';

const $ = (id) => document.getElementById(id);
const LAST_SEED = 2 ** 32 - 1; // as the server's

async function start() {
  const info = await ask('/api/info');
  document.title = `${info.name}: hires explore`;
  $('name').textContent = info.name;
  const run = info.info.run ? ` in ${info.info.run}` : '';
  const seen = info.info.images_seen ? `, ${info.info.images_seen.toLocaleString('en')} images seen${run}` : '';
  $('facts').textContent = `${info.resolution}×${info.resolution}, ${info.latent} latents${seen}, on ${info.device}`;
  document.body.classList.toggle('pixels', info.resolution <= 32);

  const move = new Move((letters) => grid.mark(letters));
  const grid = new Grid($('grid'), info.at_once, ({ seed, picture }) => move.toggle({ key: `seed ${seed}`, seed, picture, name: `seed ${seed}` }));
  const own = new Own((point) => move.toggle({ ...point }));

  function seeds() {
    const count = Number($('count').value);
    const first = Math.min(LAST_SEED - count, Math.max(0, Math.trunc(Number($('seed').value)) || 0));
    return Array.from({ length: count }, (_, i) => first + i);
  }

  /** Puts the settings into the address, so that a reload, or a copy of it, shows the same. */
  function note() {
    const state = { seed: $('seed').value, pictures: $('count').value, truncation: $('truncation').value, sorted: $('sort').checked };
    history.replaceState(null, '', `#${new URLSearchParams(state)}`);
    $('psi').textContent = Number($('truncation').value).toFixed(2);
  }

  function draw() {
    const all = seeds();
    [$('seed').value] = all;
    note();
    grid.draw({ seeds: all, truncation: Number($('truncation').value) });
  }

  function read() {
    const state = new URLSearchParams(location.hash.slice(1));
    $('seed').value = state.get('seed') ?? 0;
    if ([...$('count').options].some((option) => option.value === state.get('pictures'))) $('count').value = state.get('pictures');
    $('truncation').value = state.get('truncation') ?? 1;
    $('sort').checked = state.get('sorted') === 'true';
    grid.sort($('sort').checked);
    draw();
    move.truncate(Number($('truncation').value));
  }

  function other() {
    $('seed').value = Math.floor(Math.random() * 1e6);
    draw();
  }

  $('draw').addEventListener('click', other);
  addEventListener('keydown', (event) => {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest?.('input, select');
    if (event.key === 'n' && plain) other();
  });
  $('seed').addEventListener('change', draw);
  $('count').addEventListener('change', draw);
  $('sort').addEventListener('change', () => {
    grid.sort($('sort').checked);
    note();
  });
  $('truncation').addEventListener('input', () => {
    draw();
    move.truncate(Number($('truncation').value));
  });
  addEventListener('hashchange', read);

  $('save-grid').addEventListener('click', () => {
    const all = seeds();
    const name = `grid-seeds${all[0]}-${all.at(-1)}${$('sort').checked ? '-by-energy' : ''}.png`;
    saveGrid(name, grid.shown().map((cell) => cell.picture), grid.columns, info.resolution);
  });
  $('save-view').addEventListener('click', () => {
    if (!move.shown) return;
    const { names, weights, picture } = move.shown;
    const parts = names.map((key, i) => key.replace(' ', '') + (names.length > 1 ? `-${weights[i].toFixed(2)}` : ''));
    savePicture(`${parts.join('-')}.png`, picture);
  });
  $('save-own').addEventListener('click', () => {
    const plain = own.rebuilt.name.replace(/\.\w+$/, '').replace(/[^\p{L}\p{N}._-]+/gu, '_'); // a file's name on any system
    savePicture(`${plain}-reconstruction.png`, own.rebuilt.picture);
  });
  read();
}

start().catch((error) => say(error.message, true));
