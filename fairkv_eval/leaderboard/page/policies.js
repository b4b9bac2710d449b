// The names of policies, and which of them are alike but for their amount or their fairness.

/** The number of spellings of each press, with other parameters or another base. */
const SPELLINGS = new Map(unique(ROWS.map((row) => row.press)).map((press) =>
  [press, unique(ROWS.filter((row) => row.press === press).map((row) => row.press_name)).length]));

/** The bare name of a press if it has the same parameters everywhere; those are among a row's details. */
function pressName(row) {
  if (row.press === 'none') return row.full_cache ? 'full cache' : 'no eviction';
  return SPELLINGS.get(row.press) === 1 ? row.press : row.press_name;
}

/** What sets a policy apart beyond press, ratio and fairness. */
function extras(row, amounts = true) {
  const settings = row.settings.filter((setting) => !/^fair=/.test(setting) && (amounts || !isAmount(setting)));
  for (const name of DATA.amounts) {
    const setting = `${name}=${row[name]}`;
    if (amounts && name !== 'ratio' && row[name] != null && !settings.includes(setting)) settings.unshift(setting);
  }
  if (row.variant) settings.push(row.variant);
  return settings.join(', ');
}

const isAmount = (setting) => DATA.amounts.some((name) => setting.startsWith(`${name}=`));

function fairness(row) {
  return row.press === 'none' ? '–' : row.fair === 0 ? 'plain' : row.fair === 1 ? 'fair' : `fair ${figure(row.fair)}`;
}

/** The name that plain and fair policies at all amounts share. */
const nameOf = (row) => [pressName(row), extras(row, false)].filter(Boolean).join(', ');

const MEMBERS = new Map();
for (const row of ROWS) MEMBERS.set(`${row.model} ${nameOf(row)}`, (MEMBERS.get(`${row.model} ${nameOf(row)}`) ?? 0) + 1);
const SINGLE = new Map(unique(ROWS.map((row) => row.press)).map((press) => [press, ROWS.filter((row) =>
  row.press === press && !row.full_cache).every((row) => MEMBERS.get(`${row.model} ${nameOf(row)}`) <= 2)]));

const argumentOf = (row, name) => Array.isArray(row[name]) ? row[name].join('+') : String(row[name] ?? '–');

/** Of a press without two amounts, the argument with the most values: it stands in for the amount. */
function amountLike(press) {
  const rows = ROWS.filter((row) => row.press === press && !row.full_cache);
  const counts = DATA.arguments.map(({ name }) => [unique(rows.map((row) => argumentOf(row, name))).length, name]);
  return counts.reduce((most, entry) => entry[0] > most[0] ? entry : most, [1, ''])[1];
}

const AMOUNT_LIKE = new Map([...SINGLE].filter(([, single]) => single).map(([press]) => [press, amountLike(press)]));

/** The name of the line that a policy is a point of. */
function lineOf(row) {
  const amount = AMOUNT_LIKE.get(row.press);
  const settings = extras(row, false).split(', ').filter((setting) => setting && !(amount && setting.startsWith(`${amount}=`)));
  return [pressName(row), ...settings].join(', ');
}

/** The typed ratio; for any other amount the one achieved, of a task or on average. */
function ratioOf(row, task) {
  if (row.ratio > 0 || row.full_cache || row.press === 'none') return row.ratio;
  const entries = task ? [row.tasks[task]].filter(Boolean) : Object.values(row.tasks);
  return entries.reduce((sum, entry) => sum + (entry.achieved_ratio ?? 0), 0) / Math.max(entries.length, 1);
}

/** Bytes held as a share of the full cache's: of a task, or on average. */
const heldOf = (row, task) => (task ? row.tasks[task]?.held : row.held) ?? null;

// Shares of the full cache's bytes, in per cent, that a reader may have room for.
const LADDER = [0.5, 1, 2, ...[...Array(20).keys()].map((i) => 5 + 5 * i)];
const SLACK = 0.5; // points by which the share of a policy may exceed its level: budgets are rounded to whole pairs

/** The least level that a share fits in. */
const levelOf = (held) => held === null ? null : LADDER.find((level) => 100 * held <= level + Math.min(SLACK, level / 10)) ?? 100;

/** The full cache to compare a row with. */
function fullCacheOf(row) {
  const full = ROWS.filter((other) => other.full_cache && other.model === row.model && other.model_sha === row.model_sha);
  return full.find((other) => other.variant === row.variant) ?? full[0] ?? null;
}
