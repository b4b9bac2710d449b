// The table: columns, cells, order.

const sorting = { column: 'rank', down: false };

/** id, heading, the value it sorts by (numbers or text; null is always last), and what its cell holds. */
const COLUMNS = [
  { id: 'press', title: 'Press', value: ({ row }) => policyName(row), cell: pressCell, number: false },
  { id: 'ratio', title: 'Ratio', value: ratioOf, cell: (result) => [figure(ratioOf(result))] },
  { id: 'fair', title: 'Fair', value: ({ row }) => row.fair, cell: ({ row }) => [fairness(row)], number: false },
  { id: 'model', title: 'Model', value: ({ row }) => row.model, cell: ({ row }) => [row.model], number: false },
  { id: 'task', title: 'Task', value: ({ task }) => task, cell: ({ task }) => [task], number: false },
  { id: 'value', title: 'Metric', value: (r, c) => figureOf(r, c)?.value ?? null, cell: valueCell },
  { id: 'full', title: 'Δ full cache', value: (r, c) => figureOf(r, c)?.vs_full?.mean ?? null, cell: (r, c) => differenceCell(r, c, 'vs_full') },
  { id: 'full_p', title: 'p', label: 'p of the difference to the full cache, corrected', value: (r, c) => figureOf(r, c)?.vs_full?.p_corrected ?? null, cell: (r, c) => [probability(figureOf(r, c)?.vs_full?.p_corrected)] },
  { id: 'plain', title: 'Δ plain', value: (r, c) => figureOf(r, c)?.vs_plain?.mean ?? null, cell: (r, c) => differenceCell(r, c, 'vs_plain') },
  { id: 'plain_p', title: 'p', label: 'p of the difference of fair to plain, corrected', value: (r, c) => figureOf(r, c)?.vs_plain?.p_corrected ?? null, cell: (r, c) => [probability(figureOf(r, c)?.vs_plain?.p_corrected)] },
  { id: 'rank', title: 'Rank', value: (r, c) => figureOf(r, c)?.rank ?? null, cell: rankCell },
  { id: 'achieved', title: 'Achieved', label: 'Ratio achieved', value: ({ entry }) => entry.achieved_ratio, cell: ({ entry }) => [figure(entry.achieved_ratio)] },
  { id: 'bytes', title: 'KV held', label: 'KV bytes held, mean per context', value: ({ entry }) => entry.kv_bytes_kept, cell: ({ entry }) => [bytes(entry.kv_bytes_kept)] },
  { id: 'speed', title: 'tok/s', label: 'Tokens decoded per second', value: ({ entry }) => entry.tokens_per_second.decode ?? null, cell: ({ entry }) => [figure(entry.tokens_per_second.decode)] },
  { id: 'date', title: 'Date', value: ({ entry }) => entry.date, cell: ({ entry }) => [(entry.date ?? '–').slice(0, 10)], number: false },
];

function fairness(row) {
  return row.press === 'none' ? '–' : row.fair === 0 ? 'plain' : row.fair === 1 ? 'fair' : `fair ${figure(row.fair)}`;
}

function pressCell(result) {
  const button = element('button', { type: 'button', class: 'open', 'aria-expanded': 'false' }, policyName(result.row));
  const more = extras(result.row);
  if (more) button.append(element('span', { class: 'small' }, ` ${more}`));
  button.addEventListener('click', () => toggleDetails(result, button));
  return [button];
}

function valueCell(result, choice) {
  const metric = figureOf(result, choice);
  if (!metric) return ['–'];
  const error = metric.stderr === null ? [] : [element('span', { class: 'small' }, ` ± ${figure(metric.stderr)}`)];
  return [figure(metric.value), ...error];
}

function differenceCell(result, choice, kind) {
  const difference = figureOf(result, choice)?.[kind];
  if (!difference) return ['–'];
  const mark = verdict(difference, betterOf(result, choice));
  const parts = [element('span', { class: mark ? 'significant' : null }, `${mark && `${mark} `}${figure(difference.mean, true)}`)];
  if (mark) parts[0].setAttribute('title', mark === '▲' ? 'better' : 'worse');
  if (difference.low !== null) parts.push(element('span', { class: 'small' }, ` [${figure(difference.low, true)}, ${figure(difference.high, true)}]`));
  return parts;
}

const tieKey = ({ row, task }, metric, rank) => JSON.stringify([row.model, row.model_sha, row.conditions, task, metric, rank]);
let ties = new Map();

/** How many results share each rank on the metrics shown now. */
function countTies(choice) {
  ties = new Map();
  for (const result of RESULTS) {
    const rank = figureOf(result, choice)?.rank;
    if (rank === undefined) continue;
    const key = tieKey(result, metricOf(result, choice), rank);
    ties.set(key, (ties.get(key) ?? 0) + 1);
  }
}

function rankCell(result, choice) {
  const rank = figureOf(result, choice)?.rank;
  if (rank === undefined) return ['–'];
  const shared = ties.get(tieKey(result, metricOf(result, choice), rank)) > 1;
  return [shared ? `${rank}=` : String(rank)];
}

function drawHead() {
  const heading = element('tr');
  for (const column of COLUMNS) {
    const button = element('button', { type: 'button', 'aria-label': column.label }, column.title);
    button.addEventListener('click', () => {
      sorting.down = sorting.column === column.id ? !sorting.down : false;
      sorting.column = column.id;
      fillTable(chosen());
    });
    heading.append(element('th', { scope: 'col', id: `c-${column.id}`, class: classOf(column) }, button));
  }
  byId('board').tHead.replaceChildren(heading);
}

const classOf = ({ id, number }) => `of-${id}${number === false ? '' : ' number'}`;

/** Rows are built once and refilled only for another metric; filters and orders move them. */
function rowOf(result, choice) {
  const metric = metricOf(result, choice);
  if (result.tr && result.metric === metric) return result.tr;
  const cells = COLUMNS.map((column, index) => {
    const attributes = { class: classOf(column), scope: index ? null : 'row' };
    return element(index ? 'td' : 'th', attributes, ...column.cell(result, choice));
  });
  const tr = element('tr', { class: 'result' }, ...cells);
  if (result.details) {
    result.details.remove();
    result.details = null;
  }
  Object.assign(result, { tr, metric });
  return tr;
}

function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === 'string' ? a.localeCompare(b) : a - b;
  return down ? -order : order;
}

function ordered(results, choice) {
  const column = COLUMNS.find(({ id }) => id === sorting.column);
  const keyed = results.map((result) => {
    const value = figureOf(result, choice)?.value ?? null;
    const tie = value === null ? null : betterOf(result, choice) === false ? value : -value;
    return { result, key: column.value(result, choice), tie };
  });
  keyed.sort((a, b) => compare(a.key, b.key, sorting.down) || compare(a.tie, b.tie, false));
  return keyed.map(({ result }) => result);
}

const FIRST = 120; // more than a screen shows
const NEXT = 500;
let fillings = 0;

/** The first rows at once, the others once those are on the screen, so that a filter answers however many pass. */
function placeRows(shown, choice) {
  const body = byId('board').tBodies[0];
  const filling = ++fillings;
  const rows = (from, to) => shown.slice(from, to).flatMap((result) => {
    const tr = rowOf(result, choice);
    return result.details ? [tr, result.details] : [tr];
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

function fillTable(choice) {
  countTies(choice);
  const shown = ordered(RESULTS.filter((result) => passes(result, choice)), choice);
  placeRows(shown, choice);
  for (const column of COLUMNS) {
    const order = sorting.column !== column.id ? 'none' : sorting.down ? 'descending' : 'ascending';
    byId(`c-${column.id}`).setAttribute('aria-sort', order);
  }
  // The filters show what is the same in every row.
  byId('board').classList.toggle('one-task', choice.task !== '');
  byId('board').classList.toggle('one-model', byId('model').options.length < 3);
  const metrics = unique(shown.map((result) => metricOf(result, choice)));
  byId('c-value').firstChild.textContent = metrics.length === 1 ? metrics[0] : 'Main metric';
  return shown;
}
