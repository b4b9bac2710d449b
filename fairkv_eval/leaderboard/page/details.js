// The details of a row: its command, its origin, every metric, and what the model wrote.

function toggleDetails(result, button) {
  const open = result.details !== null;
  if (open) result.details.remove();
  result.details = open ? null : detailsOf(result);
  if (!open) result.tr.after(result.details);
  button.setAttribute('aria-expanded', String(!open));
}

function detailsOf(result) {
  const inside = element('div', { class: 'inside' },
    element('h3', {}, 'Run it again'), element('pre', {}, result.entry.command),
    element('h3', {}, 'Where it comes from'), facts(origin(result)),
    ...responses(result),
    element('h3', {}, 'All metrics'), metricsTable(result));
  return element('tr', { class: 'details' }, element('td', { colspan: COLUMNS.length }, inside));
}

function origin({ row, entry }) {
  const speeds = Object.entries(entry.tokens_per_second).map(([kind, speed]) => `${kind} ${figure(speed)}`);
  return {
    policy: row.policy,
    weights: row.model_sha,
    documents: entry.limit === null ? entry.documents : `${entry.documents} (--limit ${entry.limit})`,
    'KV bytes': entry.kv_bytes_full === null ? null : `${bytes(entry.kv_bytes_kept)} of ${bytes(entry.kv_bytes_full)} per context`,
    'tokens per second': speeds.join(', '),
    conditions: pairs({ ...row.conditions, ...entry.conditions }),
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
    if (value !== null && value !== undefined && value !== '') list.append(element('dt', {}, name), element('dd', {}, String(value)));
  }
  return list;
}

function responses({ row, task }) {
  const pairs = row.responses[task] ?? [];
  if (!pairs.length) return [];
  const blocks = pairs.flatMap(([document, response]) => [
    element('p', { class: 'small' }, 'prompt'), element('pre', {}, DATA.prompts[task][document] ?? ''),
    element('p', { class: 'small' }, 'response'), element('pre', { class: 'response' }, response === '' ? '(empty)' : response),
  ]);
  return [element('h3', {}, 'Some responses'), ...blocks];
}

function metricsTable({ task, entry }) {
  const head = ['Metric', 'Value', 'n', 'Δ full cache', 'p', 'Δ plain', 'p', 'Rank'].map((title) => element('th', { scope: 'col' }, title));
  const body = element('tbody');
  for (const [name, metric] of Object.entries(entry.metrics)) {
    const better = DATA.tasks[task].metrics[name];
    const value = figure(metric.value) + (metric.stderr === null ? '' : ` ± ${figure(metric.stderr)}`);
    const compared = ['vs_full', 'vs_plain'].flatMap((kind) => {
      const difference = metric[kind];
      if (!difference) return ['–', '–'];
      return [`${verdict(difference, better)} ${figure(difference.mean, true)}`, probability(difference.p_corrected)];
    });
    const direction = better === true ? ' ↑' : better === false ? ' ↓' : '';
    const cells = [value, metric.n, ...compared, metric.rank ?? '–'].map((cell) => element('td', {}, String(cell)));
    body.append(element('tr', {}, element('th', { scope: 'row' }, name + direction), ...cells));
  }
  return element('table', {}, element('caption', { class: 'hidden' }, 'All metrics of this result'), element('thead', {}, element('tr', {}, ...head)), body);
}
