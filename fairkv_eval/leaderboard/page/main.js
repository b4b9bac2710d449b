// The filters, and what follows when one changes.

function options(id, entries, first) {
  const all = first === undefined ? entries : [['', first], ...entries];
  byId(id).replaceChildren(...all.map(([value, text]) => element('option', { value }, text)));
}

/** Offer the metrics of the chosen task, or of all; the former choice stays if it is among them. */
function offerMetrics() {
  const before = byId('metric').value;
  const tasks = byId('task').value ? [byId('task').value] : Object.keys(DATA.tasks);
  const names = unique(tasks.flatMap((task) => Object.keys(DATA.tasks[task].metrics)));
  const direction = (name) => {
    const better = DATA.tasks[tasks.find((task) => name in DATA.tasks[task].metrics)].metrics[name];
    return better === true ? ' ↑' : better === false ? ' ↓' : '';
  };
  const main = tasks.length === 1 ? `main (${DATA.tasks[tasks[0]].main_metric})` : 'main metric of each task';
  options('metric', names.map((name) => [name, name + direction(name)]), main);
  if (names.includes(before)) byId('metric').value = before;
}

function update() {
  const choice = chosen();
  const shown = fillTable(choice);
  drawCharts(shown, choice);
  byId('status').textContent = `${shown.length} of ${RESULTS.length} results`;
}

function start() {
  const tasks = Object.keys(DATA.tasks);
  options('task', tasks.map((task) => [task, task]), 'all tasks');
  byId('task').options[1].defaultSelected = true;
  byId('task').value = tasks[0];
  options('model', unique(DATA.rows.map(({ model }) => model)).map((model) => [model, model]), 'all models');
  const presses = unique(DATA.rows.map(({ press }) => press)).sort();
  byId('presses').replaceChildren(...presses.map((press) =>
    element('label', {}, element('input', { type: 'checkbox', value: press }), press === 'none' ? 'full cache' : press)));
  offerMetrics();
  drawHead();
  // A number is heard while it is typed, everything else once it is chosen.
  for (const kind of ['input', 'change']) {
    byId('filters').addEventListener(kind, (event) => {
      if ((event.target.type === 'number') !== (kind === 'input')) return;
      if (event.target.id === 'task') offerMetrics();
      update();
    });
  }
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('filters').addEventListener('reset', () => setTimeout(() => {
    offerMetrics();
    update();
  }));
  let width = byId('charts').clientWidth;
  new ResizeObserver(() => {
    if (byId('charts').clientWidth === width) return;
    width = byId('charts').clientWidth;
    update();
  }).observe(byId('charts'));
  update();
}

start();
