// The table: columns, cells, order. One row a policy: the averages and main metrics of all tasks, or one task in full.

const sorting = { column: '', down: false };

const ARGUMENT_COLUMNS = DATA.arguments.map(({ name }) => (
  { id: `with-${name}`, title: name, value: (row) => argumentOf(row, name), cell: (row) => [argumentOf(row, name)], number: false }));

/** id, heading, the value it sorts by (numbers or text; null is always last), and what its cell holds. */
const POLICY_COLUMNS = [
  { id: 'press', title: 'Policy', value: (row) => nameOf(row), cell: pressCell, number: false },
  { id: 'fair', title: 'Fair', value: (row) => row.fair, cell: (row) => [fairness(row)], number: false },
  { id: 'model', title: 'Model', value: ({ model }) => model, cell: ({ model }) => [modelLink(model)], number: false },
  { id: 'held', title: 'Held\u00a0%', label: 'KV bytes held, in per cent of the full cache', value: (row, c) => heldOf(row, c.task), cell: (row, c) => [plainPercent(heldOf(row, c.task))] },
  { id: 'ratio', title: 'Ratio', label: 'Ratio evicted', value: (row, c) => ratioOf(row, c.task), cell: (row, c) => [figure(ratioOf(row, c.task))] },
  ...ARGUMENT_COLUMNS,
];

const AVERAGE_COLUMNS = [
  ...[...ASPECTS, 'overall'].map((aspect) => {
    const measure = averageMeasure(aspect);
    return { id: aspect, title: `${measure.title}\u00a0↑`, label: `${measure.title}: ${measure.note}; higher is better`, kind: 'average',
      value: (row) => measure.of(row)?.value ?? null, cell: (row) => [plainPercent(measure.of(row)?.value)], best: true };
  }),
  ...TASKS.filter((task) => DATA.tasks[task].main_metric).map((task) => taskColumn(task, DATA.tasks[task].main_metric)),
];

function taskColumn(task, metric) {
  const measure = metricMeasure(task, metric);
  return { id: `task-${task}`, title: task, under: metric + arrow(measure.better), better: measure.better,
    label: `${task}, ${metric}${measure.better === null ? '' : measure.better ? '; higher is better' : '; lower is better'}`,
    value: (row) => measure.of(row)?.value ?? null,
    cell: (row) => [marked(verdict(measure.of(row)?.vs_full, measure.better), measure.share ? plainPercent(measure.of(row)?.value) : figure(measure.of(row)?.value))] };
}

/** Words that a line may break after an underscore. */
function breakable(words) {
  return words.split('_').flatMap((part, i) => i ? ['_', element('wbr'), part] : [part]);
}

const plainPercent = (value) => value === null || value === undefined ? '–' : (100 * value).toFixed(1);

function marked(mark, words) {
  if (!mark) return words;
  return element('span', { class: `significant ${mark === '▲' ? 'better' : 'worse'}`, title: `${mark === '▲' ? 'better' : 'worse'} than the full cache` }, `${mark} ${words}`);
}

const figureOf = (row, choice) => row.tasks[choice.task]?.metrics[choice.metric];
const entryOf = (row, choice) => row.tasks[choice.task];

const METRIC_COLUMNS = [
  { id: 'rank', title: 'Rank', label: 'Places that the test does not set apart, by value', value: (row, c) => figureOf(row, c)?.bracket?.[0] ?? null, cell: rankCell },
  { id: 'value', title: 'Metric', value: (row, c) => figureOf(row, c)?.value ?? null, cell: valueCell },
  { id: 'full', title: 'Δ full cache', value: (row, c) => figureOf(row, c)?.vs_full?.mean ?? null, cell: (row, c) => differenceCell(row, c, 'vs_full') },
  { id: 'full_p', title: 'p', label: 'p of the difference to the full cache, corrected', value: (row, c) => figureOf(row, c)?.vs_full?.p_corrected ?? null, cell: (row, c) => [probability(figureOf(row, c)?.vs_full?.p_corrected)] },
  { id: 'plain', title: 'Δ plain', value: (row, c) => figureOf(row, c)?.vs_plain?.mean ?? null, cell: (row, c) => differenceCell(row, c, 'vs_plain') },
  { id: 'plain_p', title: 'p', label: 'p of the difference of fair to plain, corrected', value: (row, c) => figureOf(row, c)?.vs_plain?.p_corrected ?? null, cell: (row, c) => [probability(figureOf(row, c)?.vs_plain?.p_corrected)] },
  { id: 'bytes', title: 'KV bytes', label: 'KV bytes held, mean per context', value: (row, c) => entryOf(row, c)?.kv_bytes_kept ?? null, cell: (row, c) => [bytes(entryOf(row, c)?.kv_bytes_kept)] },
  { id: 'speed', title: 'tok/s', label: 'Tokens decoded per second', value: (row, c) => entryOf(row, c)?.tokens_per_second.decode ?? null, cell: (row, c) => [figure(entryOf(row, c)?.tokens_per_second.decode)] },
];

const columnsOf = (choice) => [...POLICY_COLUMNS, ...(choice.task ? METRIC_COLUMNS : AVERAGE_COLUMNS)];

function pressCell(row, choice) {
  const button = element('button', { type: 'button', class: 'open', 'aria-expanded': 'false' }, ...breakable(pressName(row)));
  // On a phone the columns of fairness and ratio are part of this one.
  if (row.press !== 'none') button.append(element('span', { class: 'small phone' }, ` ${fairness(row)} ${figure(ratioOf(row, choice.task))}`));
  const more = extras(row);
  if (more) button.append(element('span', { class: 'small' }, ` ${more}`));
  button.addEventListener('click', () => toggleDetails(row, button));
  return [button];
}

function valueCell(row, choice) {
  const metric = figureOf(row, choice);
  if (!metric) return ['–'];
  const error = metric.stderr === null ? [] : [element('span', { class: 'small' }, ` ± ${figure(metric.stderr)}`)];
  return [figure(metric.value), ...error];
}

function differenceCell(row, choice, kind) {
  const difference = figureOf(row, choice)?.[kind];
  if (!difference) return ['–'];
  const mark = verdict(difference, betterOf(choice.task, choice.metric));
  const parts = [marked(mark, figure(difference.mean, true))];
  if (mark) parts[0].setAttribute('title', mark === '▲' ? 'better' : 'worse');
  if (difference.low !== null) parts.push(element('span', { class: 'small' }, ` [${figure(difference.low, true)}, ${figure(difference.high, true)}]`));
  return parts;
}

function rankCell(row, choice) {
  const bracket = figureOf(row, choice)?.bracket;
  if (!bracket) return ['–'];
  return [bracket[0] === bracket[1] ? String(bracket[0]) : `${bracket[0]}–${bracket[1]}`];
}

function drawHead(choice) {
  const headings = columnsOf(choice).map((column) => {
    const button = element('button', { type: 'button', 'aria-label': column.label, title: column.label }, ...breakable(column.title));
    if (column.under) button.append(element('span', { class: 'small under' }, ...breakable(column.under)));
    button.addEventListener('click', () => {
      sorting.down = sorting.column === column.id ? !sorting.down : column.best === true || column.better === true;
      sorting.column = column.id;
      fillTable(rowsOf(chosen()), chosen());
      keepInAddress();
    });
    return element('th', { scope: 'col', id: `c-${column.id}`, class: classOf(column) }, button);
  });
  byId('board').tHead.replaceChildren(element('tr', {}, ...headings));
  if (choice.task) {
    byId('c-value').firstChild.replaceChildren(...breakable(choice.metric + arrow(betterOf(choice.task, choice.metric))));
  }
}

const classOf = ({ id, number, kind }) => `of-${id}${number === false ? '' : ' number'}${kind ? ` ${kind}` : ''}`;

/** A row is built once and refilled only for another task or metric; filters and orders move it. */
function trOf(row, choice) {
  const shown = `${choice.task} ${choice.metric}`;
  if (row.tr && row.shown === shown) return row.tr;
  const cells = columnsOf(choice).map((column, index) => {
    const attributes = { class: classOf(column), scope: index ? null : 'row' };
    return element(index ? 'td' : 'th', attributes, ...column.cell(row, choice));
  });
  const tr = element('tr', { class: row.full_cache ? 'result whole' : 'result' }, ...cells);
  row.details?.remove();
  Object.assign(row, { tr, shown, details: null });
  return tr;
}

function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === 'string' ? a.localeCompare(b) : a - b;
  return down ? -order : order;
}

/** The order that opens: by equal bytes and the overall average, or by a task's value. */
function ordered(rows, choice) {
  const column = columnsOf(choice).find(({ id }) => id === sorting.column);
  const better = choice.task ? betterOf(choice.task, choice.metric) : true;
  const keyed = rows.map((row) => {
    const value = (choice.task ? figureOf(row, choice) : row.averages.overall)?.value ?? null;
    const first = column ? column.value(row, choice) : choice.task ? null : levelOf(heldOf(row, ''));
    return { row, first, value };
  });
  keyed.sort((a, b) => compare(a.first, b.first, column ? sorting.down : true) || compare(a.value, b.value, better !== false));
  return keyed.map(({ row }) => row);
}

const FIRST = 120; // more than a screen shows
const NEXT = 500;
let fillings = 0;

/** The first rows at once, the others once those are on the screen, so that a filter answers however many pass. */
function placeRows(shown, choice) {
  const body = byId('board').tBodies[0];
  const filling = ++fillings;
  const rows = (from, to) => shown.slice(from, to).flatMap((row) => {
    const tr = trOf(row, choice);
    return row.details ? [tr, row.details] : [tr];
  });
  const more = (from) => {
    if (filling !== fillings || from >= shown.length) return;
    body.append(...rows(from, from + NEXT));
    afterDrawing(() => more(from + NEXT));
  };
  body.replaceChildren(...rows(0, FIRST));
  afterDrawing(() => more(FIRST));
}

const afterDrawing = (then) => requestAnimationFrame(() => setTimeout(then));

/** Mark where a bracket, or a group of equal bytes, begins and ends, if the order keeps them together. */
function markGroups(shown, choice) {
  const together = choice.task ? sorting.column === '' || sorting.column === 'rank' : sorting.column === '';
  const groupOf = (row) => choice.task ? JSON.stringify([row.model, row.variant, figureOf(row, choice)?.bracket]) : levelOf(heldOf(row, ''));
  shown.forEach((row, i) => {
    const [starts, ends] = [i === 0 || groupOf(shown[i - 1]) !== groupOf(row), i === shown.length - 1 || groupOf(shown[i + 1]) !== groupOf(row)];
    const classes = trOf(row, choice).classList;
    classes.toggle('starts', together && starts);
    classes.toggle('ends', together && ends);
    classes.toggle('tied', together && choice.task !== '' && !(starts && ends) && figureOf(row, choice)?.bracket !== undefined);
  });
}

function fillTable(rows, choice) {
  const shown = ordered(rows, choice);
  markGroups(shown, choice);
  placeRows(shown, choice);
  const by = sorting.column || (choice.task ? 'rank' : 'held');
  for (const { id } of columnsOf(choice)) {
    const down = sorting.column ? sorting.down : !choice.task;
    byId(`c-${id}`).setAttribute('aria-sort', id !== by ? 'none' : down ? 'descending' : 'ascending');
  }
  byId('board').classList.toggle('one-model', MODELS.length < 2);
}
