// The charts: the metric over the ratio, a panel a task and model, a line a press, plain and fair.

// Okabe and Ito's colours, which the colour-blind can distinguish; the shapes differ in grey, too.
const COLOURS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#B8860B', '#56B4E9', 'currentColor', '#E69F00'];
const SHAPES = ['circle', 'square', 'triangle', 'diamond', 'down', 'plus', 'cross'];
const MOST_PANELS = 6;
const WIDEST = 780;
const NARROW = 560; // below it the names of the lines go under the drawing
const EDGE = { left: 58, top: 14, bottom: 42 };

const PRESSES = unique(RESULTS.map(({ row }) => row.press_name)).filter((name) => name !== 'none').sort();
const STYLE = new Map(PRESSES.map((name, i) => [name, { colour: COLOURS[i % COLOURS.length], shape: SHAPES[i % SHAPES.length] }]));

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawCharts(shown, choice) {
  const panels = new Map();
  for (const result of shown) {
    const key = JSON.stringify([result.task, result.row.model, result.row.model_sha]);
    if (figureOf(result, choice)?.value != null) panels.set(key, [...(panels.get(key) ?? []), result]);
  }
  const size = sizeOf(Math.min(panels.size, MOST_PANELS));
  const drawn = [...panels.values()].slice(0, MOST_PANELS).map((results) => panel(results, choice, size));
  const more = panels.size - drawn.length;
  if (more > 0) drawn.push(element('p', { class: 'note' }, `${more} more: choose a task or a model to see them.`));
  if (!panels.size) drawn.push(element('p', { class: 'note' }, 'Nothing to draw: no result passes the filter.'));
  byId('charts').replaceChildren(...drawn);
}

/** Pixels of a drawing, so that its text is as large as the page's whatever the screen. */
function sizeOf(panels) {
  const whole = byId('charts').clientWidth;
  const width = Math.min(WIDEST, (panels > 1 && whole >= 2 * NARROW ? (whole - 16) / 2 : whole) - 22);
  return { width, narrow: width < NARROW, end: width < NARROW ? width - 14 : width - 226 };
}

/** Lines of the panel: press, fairness and what else sets policies apart; a full cache starts each at ratio 0. */
function seriesOf(results, choice) {
  const full = results.find(({ row }) => row.press === 'none') ?? fullCacheOf(results[0], choice);
  const series = new Map();
  for (const result of results) {
    if (result.row.press === 'none') continue;
    const { row } = result;
    const fixed = { ...row, budget: null };
    const name = [pressName(row), row.fair ? fairness(row) : '', extras(fixed)].filter(Boolean).join(' ');
    if (!series.has(name)) series.set(name, { name, row, points: [] });
    const metric = figureOf(result, choice);
    series.get(name).points.push({ x: ratioOf(result), y: metric.value, error: metric.stderr ?? 0 });
  }
  const lines = [...series.values()];
  for (const line of lines) {
    line.points.sort((a, b) => a.x - b.x);
    const start = full && figureOf(full, choice);
    if (start && line.points[0].x > 0) line.points.unshift({ x: 0, y: start.value, error: 0, shared: true });
  }
  return { lines, full: full ? figureOf(full, choice) : null };
}

/** The full cache of a result's model and task, though the filter hides it. */
function fullCacheOf({ row, task }, choice) {
  return RESULTS.find((other) => other.row.press === 'none' && other.task === task && other.row.model === row.model
    && other.row.model_sha === row.model_sha && figureOf(other, choice)?.value != null);
}

function panel(results, choice, size) {
  const { lines, full } = seriesOf(results, choice);
  const metric = metricOf(results[0], choice);
  const height = Math.max(300, EDGE.top + EDGE.bottom + (size.narrow ? 0 : 15 * lines.length));
  const values = lines.flatMap(({ points }) => points.flatMap(({ y, error }) => [y - error, y + error]));
  if (full) values.push(full.value);
  const y = scale(Math.min(...values), Math.max(...values), height - EDGE.bottom, EDGE.top);
  const furthest = Math.max(0.1, ...lines.flatMap(({ points }) => points.map((point) => point.x)));
  const x = scale(0, furthest, EDGE.left, size.end, true);
  const title = `${results[0].task}: ${metric}`;
  const label = `${title} over the ratio, ${lines.length} lines: ${lines.map(({ name }) => name).join(', ')}`;
  const drawing = svg('svg', { viewBox: `0 0 ${size.width} ${height}`, width: size.width, role: 'img', 'aria-label': label });
  drawing.append(...axes(x, y, height, size));
  if (full) drawing.append(...reference(full, y, size));
  drawing.append(...lines.map((line) => drawLine(line, x, y)));
  const caption = element('figcaption', {}, title, element('span', { class: 'small' }, ` ${results[0].row.model}`));
  if (size.narrow) return element('figure', {}, caption, drawing, legend(lines));
  drawing.append(...labels(lines, x, y, height, size));
  return element('figure', {}, caption, drawing);
}

/** From values to pixels, with round ticks; an exact scale ends at its last value. */
function scale(low, high, from, to, exact = false) {
  const spread = high - low || Math.abs(high) || 1;
  const raw = spread / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw * 0.999);
  const start = exact ? low : Math.floor(low / step) * step;
  const end = exact ? high : Math.max(Math.ceil(high / step), Math.floor(low / step) + 1) * step;
  const place = (value) => from + ((value - start) / (end - start)) * (to - from);
  const ticks = [];
  for (let i = Math.ceil(start / step - 1e-9); i * step <= end + step * 1e-6; i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return { place, ticks };
}

function axes(x, y, height, size) {
  const right = size.end;
  const bottom = height - EDGE.bottom;
  return [
    ...y.ticks.map((t) => svg('line', { class: 'grid', x1: EDGE.left, x2: right, y1: y.place(t), y2: y.place(t) })),
    ...y.ticks.map((t) => svg('text', { class: 'tick', x: EDGE.left - 7, y: y.place(t) + 4, 'text-anchor': 'end' }, figure(t))),
    ...x.ticks.map((t) => svg('line', { class: 'grid', x1: x.place(t), x2: x.place(t), y1: bottom, y2: bottom + 5 })),
    ...x.ticks.map((t) => svg('text', { class: 'tick', x: x.place(t), y: bottom + 18, 'text-anchor': 'middle' }, figure(t))),
    svg('text', { class: 'tick', x: (EDGE.left + right) / 2, y: height - 6, 'text-anchor': 'middle' }, 'ratio evicted'),
  ];
}

function reference(full, y, size) {
  const at = y.place(full.value);
  const line = svg('line', { class: 'reference', x1: EDGE.left, x2: size.end, y1: at, y2: at });
  line.append(svg('title', {}, `full cache: ${figure(full.value)}`));
  return [line, svg('text', { class: 'tick', x: size.end, y: at - 6, 'text-anchor': 'end' }, 'full cache')];
}

function drawLine({ name, row, points }, x, y) {
  const { colour, shape } = STYLE.get(row.press_name);
  const hollow = row.fair > 0;
  const group = svg('g', { class: 'series', 'data-name': name, stroke: colour, fill: hollow ? 'var(--paper)' : colour, 'stroke-width': 1.7 });
  const path = points.map((point, i) => `${i ? 'L' : 'M'}${x.place(point.x).toFixed(1)} ${y.place(point.y).toFixed(1)}`).join('');
  group.append(svg('path', { d: path, fill: 'none', 'stroke-dasharray': hollow ? '6 4' : 'none' }));
  for (const point of points.filter(({ shared }) => !shared)) {
    const [px, py] = [x.place(point.x), y.place(point.y)];
    if (point.error) {
      group.append(svg('line', { x1: px, x2: px, y1: y.place(point.y - point.error), y2: y.place(point.y + point.error), 'stroke-width': 1, opacity: 0.55 }));
    }
    const mark = svg('path', { class: 'mark', d: outline(shape, px, py) });
    mark.append(svg('title', {}, `${name}, ratio ${figure(point.x)}: ${figure(point.y)} ± ${figure(point.error)}`));
    group.append(mark);
  }
  return group;
}

function outline(shape, x, y, r = 4.2) {
  const through = (points) => `M${points.map(([dx, dy]) => `${(x + dx).toFixed(1)} ${(y + dy).toFixed(1)}`).join('L')}Z`;
  const plus = [[-1.5, -5], [1.5, -5], [1.5, -1.5], [5, -1.5], [5, 1.5], [1.5, 1.5], [1.5, 5], [-1.5, 5], [-1.5, 1.5], [-5, 1.5], [-5, -1.5], [-1.5, -1.5]];
  const turned = plus.map(([dx, dy]) => [(dx - dy) * 0.72, (dx + dy) * 0.72]);
  const corners = {
    square: [[-r, -r], [r, -r], [r, r], [-r, r]],
    triangle: [[0, -r - 1], [r + 1, r], [-r - 1, r]],
    down: [[0, r + 1], [r + 1, -r], [-r - 1, -r]],
    diamond: [[0, -r - 1.5], [r + 1.5, 0], [0, r + 1.5], [-r - 1.5, 0]],
    plus,
    cross: turned,
  };
  return corners[shape] ? through(corners[shape]) : `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
}

function markOf({ row }, x, y) {
  const { colour, shape } = STYLE.get(row.press_name);
  return svg('path', { d: outline(shape, x, y), stroke: colour, 'stroke-width': 1.5, fill: row.fair > 0 ? 'var(--paper)' : colour });
}

/** The names under a narrow drawing, in the order of the lines' ends. */
function legend(lines) {
  const items = [...lines].sort((a, b) => b.points.at(-1).y - a.points.at(-1).y).map((line) =>
    element('li', {}, svg('svg', { width: 16, height: 14, 'aria-hidden': 'true' }, markOf(line, 8, 7)), line.name));
  return element('ul', { class: 'legend' }, ...items);
}

/** A long name without its middle: its end says fair or plain. */
const shortened = (name) => name.length > 25 ? `${name.slice(0, 14)}…${name.slice(-10)}` : name;

/** A name at the end of each line, moved apart if they would overlap. */
function labels(lines, x, y, height, size) {
  const gap = 14;
  const ends = lines.map((line) => {
    const last = line.points.at(-1);
    return { line, px: x.place(last.x), want: y.place(last.y), at: y.place(last.y) };
  }).sort((a, b) => a.want - b.want);
  const bottom = height - EDGE.bottom;
  ends.forEach((end, i) => { end.at = Math.max(end.want, i ? ends[i - 1].at + gap : EDGE.top); });
  for (let i = ends.length - 1; i >= 0; i -= 1) ends[i].at = Math.min(ends[i].at, i === ends.length - 1 ? bottom : ends[i + 1].at - gap);
  const left = size.end + 24;
  return ends.flatMap(({ line, px, want, at }) => {
    const { colour } = STYLE.get(line.row.press_name);
    const leader = svg('path', { d: `M${px + 6} ${want}L${left - 12} ${at}`, stroke: colour, fill: 'none', opacity: 0.4 });
    const mark = markOf(line, left - 3, at);
    const text = svg('text', { x: left + 8, y: at + 4 }, shortened(line.name));
    text.append(svg('title', {}, line.name));
    return [leader, mark, text];
  });
}
