// Both aspects at once: an arrow from plain to fair for each press, and the policies that no other one beats in both.

const LABELLED = 8; // of more presses only those on the frontier have a name and their errors, the others a hint
const PARETO = { left: 46, right: 16, top: 22, bottom: 44 };

function drawPareto(pairs, measures, choice) {
  byId('pareto-drawing').replaceChildren();
  if (byId('pareto').hidden || !pairs.length) return;
  const [down, across] = [measures[0], measures.at(-1)];
  const full = fullCacheOf(pairs[0].plain ?? pairs[0].fair);
  const rows = pairs.flatMap(({ plain, fair }) => [plain, fair]).filter((row) => row && down.of(row) && across.of(row));
  const width = byId('pareto').clientWidth;
  const height = Math.max(320, Math.min(440, width));
  const x = measureScale({ ...across, share: false }, [...rows, full], PARETO.left, width - PARETO.right, 4);
  const y = measureScale({ ...down, share: false }, [...rows, full], height - PARETO.bottom, PARETO.top, 4);
  const drawing = drawingOf(width, height, `${down.title} against ${across.title.toLowerCase()} at ${choice.level} % of the bytes: an arrow from plain to fair for each of ${pairs.length} presses`);
  drawing.append(...paretoAxes(down, across, x, y, width, height));
  const at = (row) => [x.place(across.of(row).value), y.place(down.of(row).value)];
  const best = frontier(rows, down, across);
  drawing.append(svg('path', { class: 'frontier', d: steps(best.map(at)) }));
  const clear = (row) => pairs.length <= LABELLED || best.includes(row);
  for (const row of rows.filter(clear)) {
    const [px, py] = at(row);
    drawing.append(svg('g', { class: 'cross' }, ...errorBar(down.of(row), px, y, false, row.fair > 0), ...errorBar(across.of(row), x, py, true, row.fair > 0)));
  }
  const labels = [];
  for (const pair of pairs) {
    const ends = [pair.plain, pair.fair].filter((row) => rows.includes(row));
    const named = ends.filter(clear).at(-1);
    drawing.append(svg('g', { class: named ? 'clear' : 'faint' }, ...paretoPair(ends, at, down, across, choice)));
    if (named) labels.push({ x: at(named)[0], y: at(named)[1], words: shortened(pair.name.replace(/^no eviction, /, ''), 22), kind: 'name' });
  }
  if (full && down.of(full) && across.of(full)) {
    const [px, py] = at(full);
    drawing.append(svg('path', { class: 'full', d: `M${px - 6} ${py}H${px + 6}M${px} ${py - 6}V${py + 6}` }, svg('title', {}, `full cache: ${percent(down.of(full).value)}, ${percent(across.of(full).value)}`)));
    labels.push({ x: px, y: py, words: 'full cache', kind: 'tick' });
  }
  drawing.append(...placed(labels, [...rows, full].filter((row) => row && down.of(row) && across.of(row)).map(at), width, height));
  byId('pareto-drawing').replaceChildren(drawing);
}

function paretoAxes(down, across, x, y, width, height) {
  const bottom = height - PARETO.bottom;
  return [
    ...y.ticks.map((tick) => line('grid', PARETO.left, y.place(tick), width - PARETO.right, y.place(tick))),
    ...x.ticks.map((tick) => line('grid', x.place(tick), PARETO.top, x.place(tick), bottom)),
    ...y.ticks.map((tick) => text(PARETO.left - 7, y.place(tick) + 4, tickText(down, tick), 'tick', 'end')),
    ...x.ticks.map((tick) => text(x.place(tick), bottom + 17, tickText(across, tick))),
    text((PARETO.left + width - PARETO.right) / 2, height - 8, `${across.title}, % →`, 'axis'),
    text(4, 12, `↑ ${down.title}, %`, 'axis', 'start'), text(width - PARETO.right, 12, 'better ↗', 'tick', 'end'),
  ];
}

/** The rows that no other one equals or exceeds in both, by the first. */
function frontier(rows, down, across) {
  const beats = (a, b) => down.of(a).value >= down.of(b).value && across.of(a).value >= across.of(b).value
    && (down.of(a).value > down.of(b).value || across.of(a).value > across.of(b).value);
  return rows.filter((row) => !rows.some((other) => beats(other, row))).sort((a, b) => across.of(a).value - across.of(b).value);
}

const steps = (points) => points.map(([px, py], i) => i ? `H${px.toFixed(1)}V${py.toFixed(1)}` : `M${px.toFixed(1)} ${py.toFixed(1)}`).join('');

function paretoPair(ends, at, down, across, choice) {
  const parts = [];
  if (ends.length === 2) {
    const [[x1, y1], [x2, y2]] = ends.map(at);
    const length = Math.hypot(x2 - x1, y2 - y1);
    if (length > 14) {
      const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
      const [tx, ty] = [x2 - 7 * ux, y2 - 7 * uy];
      parts.push(line('arrow', x1, y1, tx, ty));
      parts.push(svg('path', { class: 'tip', d: `M${tx} ${ty}L${tx - 8 * ux + 4 * uy} ${ty - 8 * uy - 4 * ux}L${tx - 8 * ux - 4 * uy} ${ty - 8 * uy + 4 * ux}Z` }));
    }
  }
  for (const row of ends) {
    parts.push(dot(...at(row), row.fair > 0, `${labelOf(row, down, choice)} and ${shownValue(across, across.of(row).value)}`));
  }
  return parts;
}

/** Labels beside their points, moved until none covers another, or a point. */
function placed(labels, points, width, height) {
  const boxes = points.map(([px, py]) => ({ x: px - 7, width: 14, y: py + 4 }));
  const free = (box) => box.y > 20 && box.y < height - PARETO.bottom + 2 && !boxes.some((other) =>
    Math.abs(other.y - box.y) < 14 && box.x < other.x + other.width && other.x < box.x + box.width);
  return labels.map(({ x, y, words, kind }) => {
    const long = 7.4 * words.length;
    const starts = [x + 10, x - 10 - long].filter((start) => start > PARETO.left && start + long < width);
    const places = [4, -10, 18, -22, 30, -34, 42, -46].flatMap((shift) => starts.map((start) => ({ x: start, width: long, y: y + shift })));
    const box = places.find(free) ?? { x: starts[0] ?? 4, width: long, y: y + 4 };
    boxes.push(box);
    return text(box.x, box.y, words, kind, 'start');
  });
}
