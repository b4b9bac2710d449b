// The data, elements, and the format of figures.

const unique = (values) => [...new Set(values)];
const DATA = JSON.parse(document.getElementById('data').textContent);
const ROWS = DATA.rows;
const TASKS = Object.keys(DATA.tasks);
const MODELS = unique(ROWS.map(({ model }) => model));
const ASPECTS = Object.keys(DATA.aspects);

const byId = (id) => document.getElementById(id);
const NUMBERS = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** An element with attributes and children; text is only ever set as text. */
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** As many digits as mean something: four decimals below 1, four digits above; an exponent only for what would be 0. */
function figure(value, signed = false) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  const text = size >= 1e4 ? NUMBERS.format(size)
    : size === 0 ? '0' : size >= 0.001 ? String(Number(size < 1 ? size.toFixed(4) : size.toPrecision(4))) : size.toExponential(1);
  return (value < 0 ? '−' : signed && value > 0 ? '+' : '') + text;
}

/** A share in per cent. */
function percent(value, digits = 1) {
  return value === null || value === undefined ? '–' : `${(100 * value).toFixed(digits).replace('-', '−')} %`;
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

const arrow = (better) => better === true ? ' ↑' : better === false ? ' ↓' : '';

/** "▲" or "▼" for a significant difference: better or worse. */
function verdict(difference, better) {
  if (!difference || difference.p_corrected >= DATA.alpha || better === null || better === undefined) return '';
  return (difference.mean > 0) === better ? '▲' : '▼';
}

/** A link to a model of the hub; plain text for other names. */
function modelLink(name) {
  if (!/^[\w.-]{1,60}\/[\w.-]{1,60}$/.test(name)) return name;
  return element('a', { href: `https://huggingface.co/${name}`, rel: 'noopener noreferrer' }, name);
}
