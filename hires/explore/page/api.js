// Questions to the server, and the rule that the newest wins.

/** The answer of `path` to nothing, an object (as JSON) or a file (its bytes); throws an Error with the server's one line. */
export async function ask(path, body) {
  const options = { method: body ? 'POST' : 'GET' };
  if (body instanceof Blob) options.body = body;
  else if (body) Object.assign(options, { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error('no answer: has hires explore ended?');
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error ?? `${answer.status} ${answer.statusText}`);
  return said;
}

/**
 * `work` made to run once at a time: of what is given while it runs only the newest is kept, and done next.
 * work(given, stale): stale() says whether something newer waits.
 */
export function newest(work) {
  let running = false;
  let waiting = null;
  return async (given) => {
    waiting = { given };
    if (running) return;
    running = true;
    while (waiting) {
      const next = waiting;
      waiting = null;
      try {
        await work(next.given, () => waiting !== null);
      } catch (error) {
        say(error.message, true);
      }
    }
    running = false;
  };
}

/** A line at the foot of the page. */
export function say(text, wrong = false) {
  const line = document.getElementById('status');
  line.textContent = text;
  line.classList.toggle('wrong', wrong);
}

/** An energy or another number as people read it. */
export function number(value, digits = 2) {
  return value === null || value === undefined ? '–' : value.toFixed(digits).replace('-', '−');
}
