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

/** The name of the line that a policy is a point of: if a press has no two amounts, its settings make the line. */
const lineOf = (row) => SINGLE.get(row.press) ? pressName(row) : nameOf(row);

/** The typed ratio; for any other amount the one achieved. */
function ratioOf(row, task) {
  if (DATA.amounts.every((name) => name === 'ratio' || row[name] == null)) return row.ratio;
  const achieved = Object.entries(row.tasks).filter(([name]) => !task || name === task).map(([, entry]) => entry.achieved_ratio ?? 0);
  return achieved.reduce((sum, value) => sum + value, 0) / Math.max(achieved.length, 1);
}

/** Bytes held as a share of the full cache's: of a task, or on average. */
const heldOf = (row, task) => (task ? row.tasks[task]?.held : row.held) ?? null;

// Policies within half a step of one of these shares hold equally much.
const LADDER = [...Array(20).keys()].map((i) => 100 - 5 * i).concat([2, 1, 0.5]);
const levelOf = (held) => held === null ? null : LADDER.reduce((best, level) =>
  Math.abs(level - 100 * held) < Math.abs(best - 100 * held) ? level : best);

/** The full cache to compare a row with. */
function fullCacheOf(row) {
  const full = ROWS.filter((other) => other.full_cache && other.model === row.model && other.model_sha === row.model_sha);
  return full.find((other) => other.variant === row.variant) ?? full[0] ?? null;
}
