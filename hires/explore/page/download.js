// Files of what one sees.

const GAP = 2; // pixels between the cells of a grid
const READABLE = 64; // smallest cell
const WIDEST = 4096; // pixels of a grid that every browser can hold

function save(name, blob) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A picture's own PNG, pixel for pixel. */
export function savePicture(name, address) {
  const bytes = Uint8Array.from(atob(address.split(',')[1]), (letter) => letter.charCodeAt(0));
  save(name, new Blob([bytes], { type: 'image/png' }));
}

/** Pictures (addresses) as one PNG, row by row; small ones enlarged by a whole factor. */
export async function saveGrid(name, addresses, columns, resolution) {
  const images = await Promise.all(addresses.map(async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    return image;
  }));
  const wanted = resolution * Math.max(1, Math.ceil(READABLE / resolution));
  const cell = Math.min(wanted, Math.floor((WIDEST - GAP) / columns) - GAP);
  const canvas = document.createElement('canvas');
  canvas.width = columns * (cell + GAP) + GAP;
  canvas.height = Math.ceil(images.length / columns) * (cell + GAP) + GAP;
  const context = canvas.getContext('2d');
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = cell < resolution;
  images.forEach((image, i) => {
    const [column, row] = [i % columns, Math.floor(i / columns)];
    context.drawImage(image, GAP + column * (cell + GAP), GAP + row * (cell + GAP), cell, cell);
  });
  save(name, await new Promise((done) => canvas.toBlob(done, 'image/png')));
}
