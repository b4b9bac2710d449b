// The filters, and what follows when one changes.

function options(id, entries) {
  byId(id).replaceChildren(...entries.map(([value, words]) => element('option', { value }, words)));
}

/** Offer the metrics of the chosen task; without one, averages have no metric to choose. */
function offerMetrics() {
  const before = byId('metric').value;
  const summary = DATA.tasks[byId('task').value];
  const names = summary ? Object.keys(summary.metrics) : [];
  options('metric', [['', summary ? `main (${summary.main_metric})` : 'main metrics'], ...names.map((name) => [name, name + arrow(summary.metrics[name])])]);
  byId('metric').disabled = !summary;
  if (names.includes(before)) byId('metric').value = before;
  byId('task-note').textContent = summary ? summary.explanation : '';
}

let offered = '';

/** Offer the shares of bytes at which these rows can be compared, and return the one nearest to the reader's choice. */
function offerLevels(rows, measures, choice) {
  const levels = levelsOf(rows, choice);
  const level = wantedLevel === null ? openingLevel(levels, measures) : nearest(levels, wantedLevel);
  const labels = levels.map(([share, pairs]) => [share, `${share} % of the full cache's bytes, ${pairs.length} presses`]);
  if (offered !== String(labels)) {
    byId('levels').replaceChildren(...labels.map(([share, label]) => radioButton('level', String(share), `${share} %`, false, label)));
    offered = String(labels);
  }
  for (const button of byId('levels').querySelectorAll('input')) button.checked = Number(button.value) === level;
  return level;
}

function radioButton(name, value, words, checked, label) {
  const input = element('input', { type: 'radio', name, value, 'aria-label': label });
  input.checked = checked;
  return element('label', {}, input, words);
}

function rowsOf(choice) {
  return ROWS.filter((row) => passes(row, choice));
}

function drawFigures(rows, choice) {
  const model = ofOneModel(rows);
  const measures = measuresOf(choice, model);
  const drawn = model.filter((row) => row.full_cache || measures.some((measure) => has(row, measure)));
  choice.level = offerLevels(drawn, measures, choice);
  byId('figures-of').textContent = figuresOf(rows, model, drawn, choice);
  // The panel beside the figures at equal bytes takes its place before they are measured.
  byId('pareto').hidden = choice.task !== '' || measures.length < 2;
  byId('hero').classList.toggle('alone', byId('pareto').hidden);
  drawPareto(drawEqualBytes(drawn, measures, choice), measures, choice);
  drawSizes(drawn, choice);
  byId('aspects').hidden = choice.task !== '';
}

/** Which of the rows are drawn, if not all. */
function figuresOf(rows, model, drawn, choice) {
  const without = model.length - drawn.length;
  const of = unique(rows.map((row) => row.model)).length > 1 ? [`Figures are of ${model[0].model}; choose another model above.`] : [];
  if (without && !choice.task) of.push(`${without} of ${model.length} policies lack a task of every average: choose a task to see them.`);
  return of.join(' ');
}

let head = '';

function update() {
  const choice = chosen();
  const rows = rowsOf(choice);
  const key = `${choice.task} ${choice.metric}`;
  if (head !== key) {
    if (!columnsOf(choice).some(({ id }) => id === sorting.column)) Object.assign(sorting, { column: '', down: false });
    drawHead(choice);
    head = key;
  }
  fillTable(rows, choice);
  drawFigures(rows, choice);
  byId('status').textContent = `${rows.length} of ${ROWS.length} policies`;
  return rows;
}

/** Answer what has changed; another task has other metrics. */
function changed(event) {
  if (event.target.id === 'task') offerMetrics();
  if (event.target.name === 'level') wantedLevel = Number(event.target.value);
  update();
  keepInAddress();
}

function csvOf(rows, choice) {
  const columns = columnsOf(choice);
  const cell = (value) => {
    const words = String(value ?? '');
    const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(words) ? `'${words}` : words;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [columns.map(({ id }) => id), ...rows.map((row) => columns.map((column) => column.value(row, choice)))];
  return lines.map((line) => `${line.map(cell).join(',')}\n`).join('');
}

function download() {
  const choice = chosen();
  const url = URL.createObjectURL(new Blob([csvOf(ordered(rowsOf(choice), choice), choice)], { type: 'text/csv' }));
  element('a', { href: url, download: 'shown.csv' }).click();
  URL.revokeObjectURL(url);
}

function offerFilters() {
  options('task', [['', 'average over tasks'], ...TASKS.map((task) => [task, task])]);
  if (!Object.keys(ROWS[0].averages).length) byId('task').value = TASKS[0];
  options('model', [...(MODELS.length > 1 ? [['', 'all models']] : []), ...MODELS.map((model) => [model, model])]);
  const presses = unique(ROWS.map(({ press }) => press)).sort();
  byId('presses').replaceChildren(...presses.map((press) =>
    element('label', {}, element('input', { type: 'checkbox', value: press }), press === 'none' ? 'no press' : press)));
  byId('arguments').replaceChildren(...DATA.arguments.map(({ name, help }) =>
    element('label', { title: help }, name, element('select', { id: `with-${name}` }))));
  for (const { name } of DATA.arguments) {
    options(`with-${name}`, [['', 'any'], ...unique(ROWS.map((row) => argumentOf(row, name))).sort().map((value) => [value, value])]);
  }
  byId('aspects').replaceChildren(...[...ASPECTS, 'overall'].map((aspect, i) =>
    radioButton('aspect', aspect, averageMeasure(aspect).title, i === 0)));
  for (const id of FIELDS) OPENING[id] = byId(id)?.value ?? '';
  OPENING.aspect = radio('aspect');
}

function listen() {
  // Text is heard while it is typed, everything else once it is chosen.
  for (const kind of ['input', 'change']) {
    document.addEventListener(kind, (event) => {
      if (/^(number|search)$/.test(event.target.type) === (kind === 'input')) changed(event);
    });
  }
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('filters').addEventListener('reset', () => {
    history.replaceState(null, '', location.pathname + location.search);
    setTimeout(() => { readAddress(); update(); keepInAddress(); });
  });
  window.addEventListener('hashchange', () => { readAddress(); head = ''; update(); });
  byId('download').addEventListener('click', download);
  let width = byId('sizes').clientWidth;
  new ResizeObserver(() => {
    if (byId('sizes').clientWidth === width) return;
    width = byId('sizes').clientWidth;
    const choice = chosen();
    drawFigures(rowsOf(choice), choice);
  }).observe(byId('sizes'));
}

function start() {
  for (const row of ROWS) Object.assign(row, { tr: null, details: null });
  offerFilters();
  readAddress();
  byId('more').open = ['fair', 'from', 'to', 'press=', 'with-'].some((name) => location.hash.includes(name));
  listen();
  update();
}

start();
