// A picture of one's own: dropped, pasted or chosen, reconstructed, and used as a point to move from.
import { ask, newest, number, say } from './api.js';

const LARGEST = 10 * 2 ** 20; // bytes, as the server's
const $ = (id) => document.getElementById(id);

export class Own {
  /** onUse({code, name, picture}) when a person wants to move from the reconstruction. */
  constructor(onUse) {
    this.rebuilt = null;
    this.count = 0;
    this.take = newest((file) => this.reconstruct(file));
    $('file').addEventListener('change', () => {
      this.first($('file').files);
      $('file').value = ''; // so that the same file can be chosen again
    });
    $('use').addEventListener('click', () => this.rebuilt && onUse(this.rebuilt));
    addEventListener('paste', (event) => this.first(event.clipboardData.files));
    addEventListener('dragover', (event) => {
      if (![...event.dataTransfer.types].includes('Files')) return;
      event.preventDefault(); // or the browser would leave the page for the picture
      event.dataTransfer.dropEffect = 'copy';
      $('veil').hidden = false;
    });
    addEventListener('dragleave', (event) => event.relatedTarget === null && ($('veil').hidden = true));
    addEventListener('drop', (event) => {
      $('veil').hidden = true;
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.first(event.dataTransfer.files);
    });
  }

  first(files) {
    if (files.length) this.take(files[0]);
  }

  async reconstruct(file) {
    const name = file.name || 'the picture';
    if (file.size > LARGEST) throw new Error(`${name}: ${(file.size / 2 ** 20).toFixed(1)} MB; wanted at most 10`);
    say(`reconstructing ${name} …`);
    let found;
    try {
      found = await ask('/api/reconstruct', file);
    } catch (error) {
      throw new Error(`${name}: ${error.message.replace(/^the picture: /, '')}`);
    }
    this.count += 1;
    this.rebuilt = { key: `own ${this.count}`, code: found.code, name, picture: found.picture };
    $('original').src = found.original;
    $('rebuilt').src = found.picture;
    const energies = `energy ${number(found.energy_original)} → ${number(found.energy)}`;
    $('errors').textContent = `mean squared error ${number(found.mse, 4)} on [−1, 1], ${energies}`;
    $('pair').hidden = false;
    say(`${name}: reconstructed`);
  }
}
