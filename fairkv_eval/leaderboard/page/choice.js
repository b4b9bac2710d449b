// The state of the filters, and the address that keeps it.

const FIELDS = ['task', 'metric', 'model', 'fair', 'from', 'to', 'search', ...DATA.arguments.map(({ name }) => `with-${name}`)];
let wantedLevel = null; // the share of bytes that the reader chose

const radio = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value ?? '';

/** An empty `task` means averages over tasks; an empty `metric` means the task's main metric. */
function chosen() {
  const value = Object.fromEntries(FIELDS.map((id) => [id, byId(id)?.value ?? '']));
  const number = (text, otherwise) => (text === '' ? otherwise : Number(text) / 100);
  return {
    ...value,
    metric: value.task && (value.metric || DATA.tasks[value.task].main_metric),
    from: number(value.from, 0),
    to: number(value.to, 1),
    words: value.search.toLowerCase().split(/\s+/).filter(Boolean),
    arguments: DATA.arguments.map(({ name }) => [name, value[`with-${name}`]]).filter(([, wanted]) => wanted !== ''),
    presses: new Set([...byId('presses').querySelectorAll(':checked')].map((box) => box.value)),
    level: null, // see `offerLevels`
    aspect: radio('aspect'),
  };
}

/** A full cache is neither plain nor fair, holds all and has no setting: it stays, since the others are compared with it. */
function passes(row, choice) {
  if (choice.task && !(choice.task in row.tasks)) return false;
  if (choice.model && row.model !== choice.model) return false;
  if (!choice.words.every((word) => searched(row).includes(word))) return false;
  if (choice.presses.size && !choice.presses.has(row.press)) return false;
  const held = heldOf(row, choice.task);
  if (held !== null && (held < choice.from - 0.0005 || held > choice.to + 0.0005)) return false;
  if (row.full_cache) return true;
  if (choice.fair && (row.fair > 0 ? 'fair' : 'plain') !== choice.fair) return false;
  return choice.arguments.every(([name, wanted]) => argumentOf(row, name) === wanted);
}

function searched(row) {
  row.searched ??= [row.policy, pressName(row), fairness(row), row.variant, row.model, ...Object.keys(row.tasks)].join(' ').toLowerCase();
  return row.searched;
}

/** Write what differs from the opening state behind the page's address. */
function keepInAddress() {
  const kept = new URLSearchParams();
  for (const id of FIELDS) if (byId(id) && byId(id).value !== OPENING[id]) kept.append(id, byId(id).value);
  if (wantedLevel !== null) kept.append('level', wantedLevel);
  if (radio('aspect') !== OPENING.aspect) kept.append('aspect', radio('aspect'));
  for (const box of byId('presses').querySelectorAll(':checked')) kept.append('press', box.value);
  if (sorting.column) kept.append('sort', (sorting.down ? '-' : '') + sorting.column);
  const hash = kept.toString();
  history.replaceState(null, '', hash ? `#${hash}` : location.pathname + location.search);
  // A Space is framed: the address that a reader copies is that of the frame around it.
  if (parent !== window) parent.postMessage({ hash }, 'https://huggingface.co');
}

/** Set the filters as the address says; what it names and the page does not have is ignored. */
function readAddress() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const id of FIELDS) {
    if (id === 'metric') offerMetrics();
    if (byId(id)) byId(id).value = kept.get(id) ?? OPENING[id];
    if (byId(id)?.value === '' && OPENING[id]) byId(id).value = OPENING[id];
  }
  wantedLevel = Number(kept.get('level')) || null;
  for (const button of document.querySelectorAll('input[name="aspect"]')) button.checked = button.value === (kept.get('aspect') ?? OPENING.aspect);
  const presses = new Set(kept.getAll('press'));
  for (const box of byId('presses').querySelectorAll('input')) box.checked = presses.has(box.value);
  const sort = kept.get('sort') ?? '';
  Object.assign(sorting, { column: sort.replace(/^-/, ''), down: sort.startsWith('-') });
}

const OPENING = {};
