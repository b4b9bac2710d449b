// Over all sizes: the measure against the bytes held, one small drawing for each press.

const SMALL = { left: 40, right: 12, top: 12, bottom: 40, height: 210 };
const MOST = 12;
let allPanels = false;

function drawSizes(rows, choice) {
  const measure = choice.task ? metricMeasure(choice.task, choice.metric)
    : averageMeasure(choice.aspect || [...ASPECTS, 'overall'][0]);
  byId('sizes-note').textContent = `${measure.title}${arrow(measure.better)}${measure.note && ` (${measure.note})`}. `;
  const full = rows.length ? fullCacheOf(rows[0]) : null;
  const able = rows.filter((row) => !row.full_cache && measure.of(row)?.value != null && heldOf(row, choice.task) !== null);
  const panels = new Map();
  for (const row of able) panels.set(lineOf(row), [...(panels.get(lineOf(row)) ?? []), row]);
  const names = [...panels.keys()].sort();
  const shown = allPanels ? names : names.slice(0, MOST);
  const whole = widthOf('sizes');
  const columns = Math.max(1, Math.min(shown.length, Math.floor((whole + 12) / (whole < 500 ? 170 : 232))));
  const width = Math.floor((whole - 12 * (columns - 1)) / columns) - 2;
  const frame = { measure, full, choice, width: Math.min(width, 420), y: measureScale(measure, [...able, full], SMALL.height - SMALL.bottom, SMALL.top, 4) };
  const drawn = shown.map((name) => sizePanel(name, panels.get(name), frame));
  if (!drawn.length) drawn.push(element('p', { class: 'note' }, full && !choice.task
    ? 'No policy has this average: choose another, or a task.' : 'Nothing to draw: no result passes the filter.'));
  if (shown.length < names.length) {
    const more = element('button', { type: 'button' }, `Show the other ${names.length - shown.length} presses`);
    more.addEventListener('click', () => { allPanels = true; update(); });
    drawn.push(more);
  }
  byId('sizes').replaceChildren(...drawn);
}

function sizePanel(name, rows, { measure, full, choice, width, y }) {
  const x = (held) => SMALL.left + (1 - held) * (width - SMALL.left - SMALL.right);
  const bottom = SMALL.height - SMALL.bottom;
  const drawing = drawingOf(width, SMALL.height, `${name}: ${measure.title} over the bytes held, plain and fair`);
  drawing.append(
    ...y.ticks.map((tick) => line('grid', SMALL.left, y.place(tick), width - SMALL.right, y.place(tick))),
    ...y.ticks.map((tick) => text(SMALL.left - 6, y.place(tick) + 4, tickText(measure, tick), 'tick', 'end')),
    ...[1, 0.75, 0.5, 0.25, 0].map((held) => text(x(held), bottom + 16, `${100 * held}`)),
    text((SMALL.left + width - SMALL.right) / 2, SMALL.height - 6, '% of the bytes held'));
  const value = full && measure.of(full)?.value;
  if (value != null) drawing.append(line('reference', SMALL.left, y.place(value), width - SMALL.right, y.place(value)));
  for (const degree of unique(rows.map((row) => row.fair)).sort()) {
    const points = rows.filter((row) => row.fair === degree).sort((a, b) => heldOf(b, choice.task) - heldOf(a, choice.task));
    drawing.append(sizeLine(`${name} ${fairness(points[0])}`, points, { measure, choice, full, x, y }));
  }
  return element('figure', {}, element('figcaption', {}, name), drawing);
}

/** A line of one press and fairness, from the full cache on. */
function sizeLine(name, rows, { measure, choice, full, x, y }) {
  const fair = rows[0].fair > 0;
  const points = rows.map((row) => [x(heldOf(row, choice.task)), y.place(measure.of(row).value)]);
  const start = full && measure.of(full)?.value != null ? [[x(1), y.place(measure.of(full).value)]] : [];
  const d = [...start, ...points].map(([px, py], i) => `${i ? 'L' : 'M'}${px.toFixed(1)} ${py.toFixed(1)}`).join('');
  const group = svg('g', { class: 'series', 'data-name': name }, svg('path', { class: `line ${fair ? 'fair' : 'plain'}`, d }));
  rows.forEach((row, i) => group.append(...errorBar(measure.of(row), points[i][0], y, false, fair),
    dot(...points[i], fair, labelOf(row, measure, choice), 3.6)));
  return group;
}
