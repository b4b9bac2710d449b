// What is drawn and listed: averages over tasks, or a metric of a task.

/** {id, title, note, better, share, of(row): {value, stderr} or undefined, marks: the metrics that are tested}. */
function averageMeasure(aspect) {
  const { title, tasks } = DATA.aspects[aspect] ?? { title: 'Overall', tasks: {} };
  const counted = Object.entries(tasks);
  const parts = counted.map(([task, metric]) => `${betterOf(task, metric) ? '' : '1 − '}${metric} of ${task}`);
  return {
    id: aspect, title, better: true, share: true, tested: counted,
    note: aspect === 'overall' ? 'harmonic mean of the averages' : `mean of ${parts.join(', ')}`,
    of: (row) => row.averages[aspect],
  };
}

function metricMeasure(task, metric) {
  const values = ROWS.map((row) => row.tasks[task]?.metrics[metric]?.value).filter((value) => value != null);
  return {
    id: 'value', title: `${task}: ${metric}`, better: betterOf(task, metric), tested: [[task, metric]],
    note: DATA.tasks[task].notes[metric] ?? '',
    share: values.length > 0 && values.every((value) => value >= 0 && value <= 1),
    of: (row) => row.tasks[task]?.metrics[metric],
  };
}

const betterOf = (task, metric) => DATA.tasks[task].metrics[metric];

/** The measures of the figures at equal bytes. */
function measuresOf(choice) {
  return choice.task ? [metricMeasure(choice.task, choice.metric)] : ASPECTS.map(averageMeasure);
}

const shownValue = (measure, value) => measure.share ? percent(value) : figure(value);

/** The rows of the model that figures are about: the chosen one, or the first that passes the filter. */
function ofOneModel(rows) {
  return rows.filter(({ model, model_sha }) => model === rows[0].model && model_sha === rows[0].model_sha);
}

/** [share in %, rows] of the policies that hold less than the full cache, most bytes first. */
function levelsOf(choice) {
  const levels = new Map();
  for (const row of ROWS.filter((one) => !one.full_cache && (!choice.model || one.model === choice.model))) {
    const level = levelOf(heldOf(row, choice.task));
    if (level !== null) levels.set(level, [...(levels.get(level) ?? []), row]);
  }
  return [...levels].sort(([a], [b]) => b - a);
}

/** The level with the most policies, the one nearest to half if several have them. */
function openingLevel(levels) {
  const most = Math.max(0, ...levels.map(([, rows]) => rows.length));
  const fullest = levels.filter(([, rows]) => rows.length >= 0.8 * most).map(([level]) => level);
  return fullest.reduce((best, level) => Math.abs(level - 50) < Math.abs(best - 50) ? level : best, fullest[0] ?? 0);
}

/** Of the rows at a level: {name, plain, fair: the highest degree}, the policy nearest to the level of each. */
function pairsAt(rows, level, choice) {
  const pairs = new Map();
  const distance = (row) => Math.abs(100 * heldOf(row, choice.task) - level);
  for (const row of rows.filter((one) => !one.full_cache && levelOf(heldOf(one, choice.task)) === level)) {
    const name = nameOf(row);
    const pair = pairs.get(name) ?? { name, plain: null, fair: null };
    const side = row.fair > 0 ? 'fair' : 'plain';
    const before = pair[side];
    if (!before || row.fair > before.fair || (row.fair === before.fair && distance(row) < distance(before))) pair[side] = row;
    pairs.set(name, pair);
  }
  return [...pairs.values()];
}
