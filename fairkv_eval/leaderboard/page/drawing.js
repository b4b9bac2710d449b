// What all drawings share: scales, axes and marks. Blue and filled is plain, orange and hollow is fair, everywhere.

/** From values to pixels, with round ticks; an exact scale ends at its last value. */
function scale(low, high, from, to, steps = 5) {
  const spread = high - low || Math.abs(high) || 1;
  const raw = spread / steps;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw * 0.999);
  const start = Math.floor(low / step + 1e-9) * step;
  const end = Math.max(Math.ceil(high / step - 1e-9), Math.round(start / step) + 1) * step;
  const place = (value) => from + ((value - start) / (end - start)) * (to - from);
  const ticks = [];
  for (let i = Math.round(start / step); i * step <= end + step * 1e-6; i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return { place, ticks };
}

/** The whole pixels of a part of the page: clientWidth may round up, and what stands side by side would wrap. */
const widthOf = (id) => Math.floor(byId(id).getBoundingClientRect().width);

/** A scale of a measure over these rows and the full cache; shares begin at 0. */
function measureScale(measure, rows, from, to, steps) {
  const found = rows.map((row) => row && measure.of(row)).filter((metric) => metric?.value != null);
  const ends = found.flatMap(({ value, stderr }) => [value - (stderr ?? 0), value + (stderr ?? 0)]);
  const low = measure.share ? 0 : Math.min(...ends);
  return scale(found.length ? low : 0, found.length ? Math.max(...ends) : 1, from, to, steps);
}

const tickText = (measure, value) => measure.share ? `${Number((100 * value).toPrecision(3))}` : figure(value);

function dot(x, y, fair, label, radius = 5) {
  return svg('circle', { class: `mark ${fair ? 'fair' : 'plain'}`, cx: x.toFixed(1), cy: y.toFixed(1), r: radius }, svg('title', {}, label));
}

/** A line of one standard error to both sides; the axis along it is a scale, the other one a place. */
function errorBar(metric, x, y, across, fair) {
  if (!metric.stderr) return [];
  const [low, high] = [metric.value - metric.stderr, metric.value + metric.stderr];
  const ends = across ? { x1: x.place(low), x2: x.place(high), y1: y, y2: y } : { x1: x, x2: x, y1: y.place(low), y2: y.place(high) };
  return [svg('line', { class: `error ${fair ? 'fair' : 'plain'}`, ...ends })];
}

const line = (kind, x1, y1, x2, y2) => svg('line', { class: kind, x1, y1, x2, y2 });

function text(x, y, words, kind = 'tick', anchor = 'middle') {
  return svg('text', { class: kind, x, y, 'text-anchor': anchor }, words);
}

/** A long name without its middle. */
const shortened = (name, most = 24) => name.length > most ? `${name.slice(0, most - 9)}…${name.slice(-8)}` : name;

function labelOf(row, measure, choice) {
  const metric = measure.of(row);
  const error = metric?.stderr ? ` ± ${shownValue(measure, metric.stderr)}` : '';
  return `${nameOf(row)} ${fairness(row)}, ${percent(heldOf(row, choice.task))} held: ${shownValue(measure, metric?.value)}${error}`;
}

const drawingOf = (width, height, label, kind = '') =>
  svg('svg', { class: kind, viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': label });
