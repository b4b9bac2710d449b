// The details of a row: its commands, its origin, every metric, and what the model wrote.

function toggleDetails(row, button) {
  const open = row.details !== null;
  if (open) row.details.remove();
  row.details = open ? null : detailsOf(row, chosen());
  if (!open) row.tr.after(row.details);
  button.setAttribute('aria-expanded', String(!open));
}

/** All of the task chosen, or each task's part, folded but for the first. */
function detailsOf(row, choice) {
  const tasks = Object.keys(row.tasks).filter((task) => !choice.task || task === choice.task);
  const parts = tasks.length === 1 ? partsOf(row, tasks[0]) : tasks.map((task, i) =>
    element('details', i === 0 ? { open: '' } : {}, element('summary', {}, task), ...partsOf(row, task)));
  const inside = element('div', { class: 'inside' }, facts(sharedOrigin(row)), ...parts);
  return element('tr', { class: 'details' }, element('td', { colspan: columnsOf(choice).length }, inside));
}

function partsOf(row, task) {
  const entry = row.tasks[task];
  return [
    element('h3', {}, 'Run it again'), element('pre', {}, entry.command),
    element('h3', {}, 'Where it comes from'), facts(origin(entry)),
    ...responses(row, task),
    element('h3', {}, 'All metrics'), metricsTable(entry, task),
  ];
}

const sharedOrigin = (row) => ({ policy: row.policy, model: modelLink(row.model), weights: row.model_sha, conditions: pairs(row.conditions) });

function origin(entry) {
  const speeds = Object.entries(entry.tokens_per_second).map(([kind, speed]) => `${kind} ${figure(speed)}`);
  return {
    documents: entry.limit === null ? entry.documents : `${entry.documents} (--limit ${entry.limit})`,
    'answers cut': entry.answers_cut || null,
    'KV bytes': entry.kv_bytes_full === null ? null : `${bytes(entry.kv_bytes_kept)} of ${bytes(entry.kv_bytes_full)} per context (${percent(entry.held)})`,
    'ratio achieved': entry.achieved_ratio === null ? null : figure(entry.achieved_ratio),
    'tokens per second': speeds.join(', '),
    conditions: pairs(entry.conditions),
    commit: entry.commit,
    versions: pairs(entry.versions),
    date: entry.date,
    file: entry.file,
    cell: entry.cell,
  };
}

const pairs = (values) => Object.entries(values).map(([name, value]) => `${name} ${value}`).join(', ');

function facts(values) {
  const list = element('dl');
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== '') list.append(element('dt', {}, name), element('dd', {}, value));
  }
  return list;
}

function responses(row, task) {
  const shown = row.responses[task] ?? [];
  if (!shown.length) return [];
  const blocks = shown.flatMap(([document, response]) => [
    element('p', { class: 'small' }, 'prompt'), element('pre', {}, DATA.prompts[task][document] ?? ''),
    element('p', { class: 'small' }, 'response'), element('pre', { class: 'response' }, response === '' ? '(empty)' : response),
  ]);
  return [element('h3', {}, 'Some responses'), ...blocks];
}

function metricsTable(entry, task) {
  const head = ['Metric', 'Value', 'n', 'Δ full cache', 'p', 'Δ plain', 'p', 'Rank'].map((title) => element('th', { scope: 'col' }, title));
  const body = element('tbody');
  for (const [name, metric] of Object.entries(entry.metrics)) {
    const better = betterOf(task, name);
    const value = figure(metric.value) + (metric.stderr === null ? '' : ` ± ${figure(metric.stderr)}`);
    const compared = ['vs_full', 'vs_plain'].flatMap((kind) => {
      const difference = metric[kind];
      if (!difference) return ['–', '–'];
      return [`${verdict(difference, better)} ${figure(difference.mean, true)}`, probability(difference.p_corrected)];
    });
    const cells = [value, metric.n, ...compared, metric.bracket ? unique(metric.bracket).join('–') : '–'].map((cell) => element('td', {}, String(cell)));
    const note = DATA.tasks[task].notes[name];
    body.append(element('tr', {}, element('th', { scope: 'row', title: note }, name + arrow(better)), ...cells));
  }
  return element('table', {}, element('caption', { class: 'hidden' }, 'All metrics of this result'), element('thead', {}, element('tr', {}, ...head)), body);
}
