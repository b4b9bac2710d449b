// The data, the choice of it, and the format of figures.

const DATA = JSON.parse(document.getElementById('data').textContent);

/** One result per row and task: what the table lists and the charts draw. */
const RESULTS = DATA.rows.flatMap((row) =>
  Object.entries(row.tasks).map(([task, entry]) => ({ row, task, entry, tr: null, details: null })));

const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];

/** An element with attributes and children; text is only ever set as text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** The state of the filters; an empty `metric` means each task's main metric. */
function chosen() {
  const number = (id, otherwise) => (byId(id).value === '' ? otherwise : Number(byId(id).value));
  return {
    task: byId('task').value,
    metric: byId('metric').value,
    model: byId('model').value,
    fair: byId('fair').value,
    from: number('from', 0),
    to: number('to', 1),
    presses: new Set([...byId('presses').querySelectorAll(':checked')].map((box) => box.value)),
  };
}

/** A full cache is neither plain nor fair and has no press: it stays, since the others are compared with it. */
function passes(result, choice) {
  const { row, task } = result;
  if (choice.task && task !== choice.task) return false;
  if (choice.model && row.model !== choice.model) return false;
  if (ratioOf(result) < choice.from - 1e-9 || ratioOf(result) > choice.to + 1e-9) return false;
  if (row.press === 'none') return choice.presses.size === 0 || choice.presses.has('none');
  if (choice.fair && (row.fair > 0 ? 'fair' : 'plain') !== choice.fair) return false;
  return choice.presses.size === 0 || choice.presses.has(row.press);
}

/** The policy's ratio; for a budget the achieved one. */
const ratioOf = ({ row, entry }) => (row.budget === null ? row.ratio : entry.achieved_ratio ?? 0);

const metricOf = (result, choice) => choice.metric || DATA.tasks[result.task].main_metric;
const figureOf = (result, choice) => result.entry.metrics[metricOf(result, choice)];
const betterOf = (result, choice) => DATA.tasks[result.task].metrics[metricOf(result, choice)];

/** As many digits as mean something: four decimals below 1, four digits above; an exponent only for what would be 0. */
function figure(value, signed = false) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  const text = size >= 1e4 ? size.toLocaleString('en', { maximumFractionDigits: 0 })
    : size === 0 ? '0' : size >= 0.001 ? String(Number(size < 1 ? size.toFixed(4) : size.toPrecision(4))) : size.toExponential(1);
  return (value < 0 ? '−' : signed && value > 0 ? '+' : '') + text;
}

function probability(p) {
  return p === null || p === undefined ? '–' : p < 0.001 ? '<0.001' : p.toFixed(3);
}

function bytes(value) {
  if (value === null || value === undefined) return '–';
  const steps = ['B', 'kB', 'MB', 'GB'];
  const step = Math.min(3, Math.max(0, Math.floor(Math.log10(Math.max(value, 1)) / 3)));
  return `${Number((value / 1000 ** step).toPrecision(3))} ${steps[step]}`;
}

/** "▲" or "▼" for a significant difference: better or worse. */
function verdict(difference, better) {
  if (!difference || difference.p_corrected >= DATA.alpha || better === null || better === undefined) return '';
  return (difference.mean > 0) === better ? '▲' : '▼';
}

/** The number of spellings of each press, with other parameters or another base. */
const SPELLINGS = new Map(unique(RESULTS.map(({ row }) => row.press)).map((press) =>
  [press, unique(RESULTS.filter(({ row }) => row.press === press).map(({ row }) => row.press_name)).length]));

/** The bare name of a press if it has the same parameters everywhere; those are among a row's details. */
const pressName = (row) => SPELLINGS.get(row.press) === 1 ? row.press : row.press_name;
const policyName = (row) => row.press === 'none' ? 'full cache' : pressName(row);

/** What sets a policy apart beyond press, ratio and fairness. */
function extras(row) {
  const settings = row.settings.filter((setting) => !setting.startsWith('fair='));
  if (row.budget !== null) settings.unshift(`budget=${row.budget}`);
  if (row.variant) settings.push(row.variant);
  return settings.join(', ');
}
