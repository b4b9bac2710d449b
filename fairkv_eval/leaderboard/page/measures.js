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

const has = (row, measure) => measure.of(row)?.value != null;

/** The measures of the figures at equal bytes: those that one of these rows has. */
function measuresOf(choice, rows) {
  const measures = choice.task ? [metricMeasure(choice.task, choice.metric)] : ASPECTS.map(averageMeasure);
  return measures.filter((measure) => rows.some((row) => !row.full_cache && has(row, measure)));
}

const shownValue = (measure, value) => measure.share ? percent(value) : figure(value);

/** The rows of the model that figures are about: of those that pass the filter, the one with the most results. */
function ofOneModel(rows) {
  const models = new Map();
  for (const row of rows) {
    const key = `${row.model} ${row.model_sha}`;
    models.set(key, [...(models.get(key) ?? []), row]);
  }
  const results = (of) => of.reduce((sum, { tasks }) => sum + Object.keys(tasks).length, 0);
  return [...models.values()].reduce((most, of) => results(of) > results(most) ? of : most, []);
}

/** [share in %, its pairs] of the levels that one of these rows is nearest to, most bytes first. */
function levelsOf(rows, choice) {
  const levels = unique(rows.filter((row) => !row.full_cache).map((row) => levelOf(heldOf(row, choice.task)))).filter((level) => level !== null);
  return levels.sort((a, b) => b - a).map((level) => [level, pairsAt(rows, level, choice)]);
}

/** The level nearest to half, of those at which most presses can be compared by most of the measures. */
function openingLevel(levels, measures) {
  const shown = (pairs) => pairs.flatMap(({ plain, fair }) =>
    measures.filter((measure) => [plain, fair].some((row) => row && has(row, measure)))).length;
  const most = Math.max(0, ...levels.map(([, pairs]) => shown(pairs)));
  return nearest(levels.filter(([, pairs]) => shown(pairs) >= 0.8 * most), 50);
}

const nearest = (levels, wanted) => levels.map(([level]) => level).reduce((best, level) =>
  best === null || Math.abs(level - wanted) < Math.abs(best - wanted) ? level : best, null);

/** Whether a policy fits in this share of the bytes, and uses at least two thirds of it. */
function fits(row, level, choice) {
  const held = heldOf(row, choice.task);
  return held !== null && levelOf(held) <= level && 100 * held >= (2 / 3) * level;
}

/** {name, plain, fair: the highest degree} of what fits in a share of the bytes, of each the policy that holds most. */
function pairsAt(rows, level, choice) {
  const pairs = new Map();
  const better = (a, b) => a.fair - b.fair || heldOf(a, choice.task) - heldOf(b, choice.task);
  for (const row of rows.filter((one) => !one.full_cache && fits(one, level, choice))) {
    const name = nameOf(row);
    const pair = pairs.get(name) ?? { name, plain: null, fair: null };
    const side = row.fair > 0 ? 'fair' : 'plain';
    if (!pair[side] || better(row, pair[side]) > 0) pair[side] = row;
    pairs.set(name, pair);
  }
  return [...pairs.values()];
}
