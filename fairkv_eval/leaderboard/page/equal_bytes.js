// At equal bytes: each press, plain and fair, against the full cache.

const TIGHT = 34; // pixels of a row, if there are many
const LOOSE = 80;
const FILLED = 450; // pixels that few rows share
const HEAD = 46;
const VALUES = 118; // pixels for the two figures at the right

function drawEqualBytes(rows, measures, choice) {
  const full = rows.length ? fullCacheOf(rows[0]) : null;
  const pairs = rows.length && choice.level ? sortedPairs(pairsAt(rows, choice.level, choice), measures) : [];
  byId('answer').replaceChildren(...(pairs.length ? answers(pairs, measures, choice, full) : []));
  if (!pairs.length) {
    byId('equal').replaceChildren(element('p', { class: 'note' }, nothingDrawn(measures, choice)));
    return [];
  }
  const whole = widthOf('equal');
  const stacked = whole < 620 && measures.length > 1;
  const names = namesOf(pairs, choice);
  const label = Math.min(260, whole * 0.3, 14 + Math.max(...[...names.values()].flatMap(([name, more]) => [7.6 * name.length, 6.1 * more.length])));
  const tall = whole < 620 ? TIGHT : Math.max(TIGHT, Math.min(LOOSE, (FILLED - HEAD - 26) / pairs.length));
  const panels = measures.map((measure, i) => {
    const edge = stacked || i === 0 ? label : 0;
    const width = stacked ? whole : edge + (whole - label) / measures.length;
    return equalPanel(pairs, measure, choice, full, { width: Math.floor(width), edge, tall, names });
  });
  byId('equal').replaceChildren(...panels);
  return pairs;
}

function nothingDrawn(measures, choice) {
  if (measures.length) return 'No policy that passes the filter holds this share: choose another.';
  return `Nothing to draw: no ${choice.task === '' ? 'policy that passes the filter has an average' : 'result passes the filter'}.`;
}

/** Best first: by the mean place of plain and fair over the measures. */
function sortedPairs(pairs, measures) {
  const measure = measures.length > 1 ? averageMeasure('overall') : measures[0];
  const key = ({ plain, fair }) => {
    const values = [plain, fair].map((row) => row && measure.of(row)?.value).filter((value) => value != null);
    return (values.reduce((sum, value) => sum + value, 0) / values.length || 0) * (measure.better === false ? 1 : -1);
  };
  return [...pairs].sort((a, b) => key(a) - key(b) || a.name.localeCompare(b.name));
}

function equalPanel(pairs, measure, choice, full, { width, edge, tall, names }) {
  const height = HEAD + tall * pairs.length + 26;
  const rows = pairs.flatMap(({ plain, fair }) => [plain, fair]);
  const [left, right] = [edge + 12, width - VALUES];
  const x = measureScale(measure, [...rows, full], left, right, right - left < 240 ? 3 : 5);
  const drawing = drawingOf(width, height, `${measure.title} within ${choice.level} % of the bytes, ${pairs.length} presses, plain and fair`);
  drawing.append(
    ...x.ticks.map((tick) => line('grid', x.place(tick), HEAD - 6, x.place(tick), height - 22)),
    ...x.ticks.map((tick) => text(x.place(tick), height - 8, tickText(measure, tick))),
    svg('text', { class: 'head', x: left, y: 16 }, shortened(measure.title, 40), svg('title', {}, measure.note),
      svg('tspan', { class: 'tick' }, `${arrow(measure.better)}${measure.share ? ' %' : ''}`)),
    text(right + 60, HEAD - 12, 'plain', 'plain-text', 'end'), text(right + VALUES - 4, HEAD - 12, 'fair', 'fair-text', 'end'),
    ...fullLine(measure, full, x, HEAD - 6, height - 22, right));
  pairs.forEach((pair, i) => drawing.append(...equalRow(pair, measure, choice, { x, y: HEAD + tall * (i + 0.5), tall, edge, right, width, words: names.get(pair.name) })));
  return drawing;
}

const alike = (shares) => Math.max(...shares) - Math.min(...shares) < 0.01;

/** {name: its two lines}: the press, and the settings that set it apart, with its bytes if not all hold the same. */
function namesOf(pairs, choice) {
  const shares = pairs.map(({ plain, fair }) => heldOf(plain ?? fair, choice.task));
  return new Map(pairs.map(({ name, plain, fair }, i) => {
    const more = [alike(shares) ? '' : percent(shares[i]), extras(plain ?? fair, false)].filter(Boolean).join(' · ');
    return [name, [pressName(plain ?? fair), more]];
  }));
}

function nameLines([press, more], name, y, edge) {
  const first = svg('text', { class: 'name', x: 2, y: more ? y - 2 : y + 4 }, shortened(press, Math.floor(edge / 7.6)), svg('title', {}, name));
  return more ? [first, svg('text', { class: 'more', x: 2, y: y + 12 }, shortened(more, Math.floor(edge / 6.1)), svg('title', {}, name))] : [first];
}

function fullLine(measure, full, x, top, bottom, right) {
  const value = full && measure.of(full)?.value;
  if (value == null) return [];
  const at = x.place(value);
  const anchor = at > right - 70 ? 'end' : 'start';
  return [line('reference', at, top, at, bottom), text(at + (anchor === 'end' ? 2 : -2), top - 6, `full cache ${shownValue(measure, value)}`, 'tick', anchor)];
}

function equalRow({ name, plain, fair }, measure, choice, { x, y, tall, edge, right, width, words }) {
  const parts = [line('row', 0, y + tall / 2, width, y + tall / 2)];
  if (edge) parts.push(...nameLines(words, name, y, edge));
  const [a, b] = [plain, fair].map((row) => row && measure.of(row));
  if (a && b) parts.push(line('link', x.place(a.value), y - 4, x.place(b.value), y + 4));
  [[a, plain, 60, -4], [b, fair, VALUES - 4, 4]].forEach(([metric, row, edge, shift]) => {
    if (metric?.value == null) return;
    const isFair = row.fair > 0;
    parts.push(...errorBar(metric, x, y + shift, true, isFair), dot(x.place(metric.value), y + shift, isFair, labelOf(row, measure, choice)));
    const shown = measure.share ? (100 * metric.value).toFixed(1) : figure(metric.value);
    parts.push(text(right + edge, y + 4, `${markOf(row, fullCacheOf(row), measure)} ${shown}`, isFair ? 'fair-text' : 'plain-text', 'end'));
  });
  return parts;
}

/** "▲" or "▼" of the significant differences from the full cache on a measure's tasks, if the measure itself agrees. */
function markOf(row, full, measure) {
  const marks = measure.tested.map(([task, metric]) => verdict(row.tasks[task]?.metrics[metric]?.vs_full, betterOf(task, metric)));
  if (measure.tested.length === 1) return marks[0];
  const gain = full && measure.of(full) ? measure.of(row).value - measure.of(full).value : 0;
  return gain > 0 && marks.includes('▲') ? '▲' : gain < 0 && marks.includes('▼') ? '▼' : '';
}

/** What the tests say at this level, in a sentence for each measure, and one for fair against plain. */
function answers(pairs, measures, choice, full) {
  const rows = pairs.flatMap(({ plain, fair }) => [plain, fair]).filter(Boolean);
  const cards = measures.map((measure) => {
    const value = full && measure.of(full)?.value;
    const said = counted(rows, [measure], 'vs_full');
    return card(measure.title + arrow(measure.better).replace(' ', '\u00a0'), value == null ? '–' : shownValue(measure, value), 'full cache', said, `of ${said.n} differences from the full cache`);
  });
  const said = counted(rows, measures, 'vs_plain');
  const held = pairs.flatMap(({ plain, fair }) => [plain, fair]).filter(Boolean).map((row) => heldOf(row, choice.task));
  const mean = held.reduce((sum, share) => sum + share, 0) / held.length;
  const share = alike(held) ? percent(mean, 0) : `≤ ${choice.level} %`;
  const lead = element('div', { class: 'card lead' },
    element('p', { class: 'big' }, share), element('p', {}, `of the full cache's bytes, ${alike(held) ? '' : 'on average '}${figure(Number((1 / mean).toPrecision(2)))} × smaller. ${ratiosOf(rows, choice)}${rows.length === 1 ? '1 policy' : `${rows.length} policies`}.`));
  const fair = said.n ? [card('Fair against plain', '', '', said, `of ${said.n} differences between fair and plain`)] : [];
  return [lead, ...cards, ...fair];
}

/** "Ratio 0.45. " if all policies have one. */
function ratiosOf(rows, choice) {
  const ratios = unique(rows.map((row) => ratioOf(row, choice.task)));
  return ratios.length === 1 ? `Ratio ${figure(ratios[0])}, ` : '';
}

function card(title, value, of, { n, better, worse }, rest) {
  const count = (mark, number, word) => element('span', { class: number ? `significant ${word}` : null }, `${number || 'none'} ${mark} ${word}`);
  const verdicts = !n ? ['No paired differences.'] : better + worse === 0 ? [`None ${rest} is significant.`]
    : [count('▲', better, 'better'), ', ', count('▼', worse, 'worse'), ` ${rest}.`];
  const big = value ? [element('p', { class: 'big' }, value, ' ', element('span', { class: 'small' }, of))] : [];
  return element('div', { class: 'card' }, element('h3', {}, title), ...big, element('p', {}, ...verdicts));
}

function counted(rows, measures, kind) {
  const marks = measures.flatMap(({ tested }) => tested).flatMap(([task, metric]) => rows.flatMap((row) => {
    const difference = row.tasks[task]?.metrics[metric]?.[kind];
    return difference ? [verdict(difference, betterOf(task, metric))] : [];
  }));
  return { n: marks.length, better: marks.filter((mark) => mark === '▲').length, worse: marks.filter((mark) => mark === '▼').length };
}
