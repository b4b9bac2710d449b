"""Figures of tasks' metrics: cost, following and leakage, keep rates, fidelity, and one setting against another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fairkv_eval.figures.assembly import assembled, of_presses
from fairkv_eval.figures.figure import Figure, Horizontal, Point, Row
from fairkv_eval.figures.lines import PLAIN, simple
from fairkv_eval.figures.model_results import ModelResults, TaskResults
from fairkv_eval.figures.panels import (
    DEFENSE_LEAKED,
    DIRECTIVE_KEPT,
    FOLLOWED,
    KL,
    LEAKED,
    REFUSED,
    Lines,
    Quantity,
    called,
    headline,
    lines_of,
    main_lines,
    metric,
    row,
    rows_by_setting,
)
from fairkv_eval.figures.points import measured
from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy

_MOST_LINES = 3  # in a panel, whose bands can still be told apart
_LINEAR_KL = 0.01  # nats per token; above it the axis is logarithmic, so one broken policy leaves the others apart


def overview(results: ModelResults) -> Iterator[Figure]:
    shown = [(task, name) for task in results.tasks if (name := headline(task))]
    rows = [_row(results, task, name, f"{task.name}: {called(task, name)}") for task, name in shown]
    yield assembled(
        results,
        "overview",
        "What does each press cost at equal bytes, plain and fair?",
        "A column is a press, a row a task's main metric. Each line starts with the full cache, on the left.",
        [task for task, _ in shown],
        rows,
    )


def following_and_leakage(results: ModelResults) -> Iterator[Figure]:
    """Tasks whose directive stands behind the defense."""
    yield from _both(results, "", "", [task for task in results.tasks if "flipped" not in task.name])


def flipped(results: ModelResults) -> Iterator[Figure]:
    order = [task for task in results.tasks if "flipped" in task.name]
    yield from _both(results, "_flipped", " if it stands before the defense", order)


def _both(results: ModelResults, suffix: str, condition: str, tasks: Sequence[TaskResults]) -> Iterator[Figure]:
    """Following above leakage. What is not measured is neither in the name nor in the question."""
    following, attacked = _measuring(tasks, FOLLOWED), _attacked(tasks)
    outcomes = ["followed"] * bool(following) + ["kept secret"] * bool(attacked)
    name = "_and_".join(["following"] * bool(following) + ["leakage"] * bool(attacked))
    shown = [
        *((task, FOLLOWED) for task in following),
        *((task, main) for task in attacked for main in (LEAKED, REFUSED) if main in task.metrics()),
    ]
    rows = [_row(results, task, main, f"{task.name}: {called(task, main)}") for task, main in shown]
    together = "Read following and leakage together: an empty cache keeps every secret, and follows nothing."
    sentence = together if len(outcomes) > 1 else "A column is a press, a row a task."
    question = f"Is the directive {' and '.join(outcomes)}{condition}?"
    yield assembled(results, f"{name}{suffix}", question, sentence, [*following, *attacked], rows)


def halves_missing(results: ModelResults) -> list[str]:
    """What figures of following and leakage lack, for each order of directive and defense that was measured."""
    missing = []
    for name, order in (("following_and_leakage", False), ("flipped", True)):
        tasks = [task for task in results.tasks if ("flipped" in task.name) == order]
        measured_ones = [metric for metric in (FOLLOWED, LEAKED) if _measuring(tasks, metric)]
        if len(measured_ones) == 1:
            lacking = LEAKED if measured_ones == [FOLLOWED] else FOLLOWED
            where = "a flipped task" if order else "a task"
            missing.append(f"{name}: without {called(tasks[0], lacking)}, which needs {lacking} of {where}")
    return missing


def defense_leakage(results: ModelResults) -> Iterator[Figure]:
    tasks = [task for task in _attacked(results.tasks) if DEFENSE_LEAKED in task.metrics()]
    rows = [_row(results, task, DEFENSE_LEAKED, f"{task.name}: {called(task, DEFENSE_LEAKED)}") for task in tasks]
    sentence = "What an answer repeats of the defense's own words."
    yield assembled(results, "defense_leakage", "Does the defense leak too?", sentence, tasks, rows)


def keep_rates(results: ModelResults) -> Iterator[Figure]:
    """What is kept of each segment; instructions, by class and by position, have figures of their own."""
    for task in results.tasks:
        names = [name.removeprefix("keep_rate_") for name in sorted(task.metrics()) if name.startswith("keep_rate_")]
        segments = [name for name in names if name not in CLASSES and not name.startswith("position_")]
        if len(segments) > 1:
            quantities = [metric(task, f"keep_rate_{name}", name.replace("_", " ")) for name in segments]
            rows = rows_by_setting(results, task, "share of pairs kept", None, quantities)
            sentence = "Lines apart: one segment pays for the other. Fair eviction lays them on one another."
            question = "Which segment is evicted first?"
            yield of_presses(assembled(results, f"keep_rates_{task.name}", question, sentence, [task], rows))


def directive_share(results: ModelResults) -> Iterator[Figure]:
    """Following over what is left of the directive, whatever was evicted beside it."""
    tasks = _measuring(_measuring(results.tasks, FOLLOWED), DIRECTIVE_KEPT)
    axis = Horizontal("share of the directive's pairs kept (less to the right)", True)
    rows = [
        row(
            results,
            task,
            metric(task, FOLLOWED, f"{task.name}: {called(task, FOLLOWED)}"),
            main_lines(results, task),
            _kept,
        )
        for task in tasks
    ]
    question = "Is the directive followed more if more of it is kept?"
    sentence = "Lines on one another: what is left of the directive decides, not whether eviction was fair."
    yield assembled(results, "directive_share", question, sentence, tasks, rows, axis)


def fidelity(results: ModelResults) -> Iterator[Figure]:
    tasks = _measuring(results.tasks, KL)
    rows = [
        row(results, task, _divergence(f"{task.name}: {called(task, KL)}"), main_lines(results, task)) for task in tasks
    ]
    sentence = "Next tokens along the full cache's own answer; the scale is logarithmic above 0.01."
    yield assembled(results, "fidelity", "How far are answers from the full cache's?", sentence, tasks, rows)


def whitelist(results: ModelResults) -> Iterator[Figure]:
    question = "Does it help to keep chosen tokens whatever their score?"
    yield from _against_plain(results, "whitelist", question, lambda line: bool(line.keep))


def fair(results: ModelResults) -> Iterator[Figure]:
    question = "Does fair eviction help at equal bytes?"
    yield from _against_plain(results, "fair", question, lambda line: bool(line.fair) and not line.keep)


def storage(results: ModelResults) -> Iterator[Figure]:
    question = "What do other ways to hold the cache buy at equal bytes?"
    yield from _against_plain(results, "storage", question, _is_stored_otherwise)


def quality_bytes(results: ModelResults) -> Iterator[Figure]:
    """The headline over the bytes that a context really holds."""
    axis = Horizontal("KV cache held per context (MiB, less to the right)", False)
    for task in results.tasks:
        name = headline(task)
        if name:
            rows = [row(results, task, metric(task, name), main_lines(results, task), _mebibytes)]
            question = "How good are answers from a cache of this size?"
            sentence = "Each line starts with the full cache, on the left."
            yield assembled(results, f"quality_bytes_{task.name}", question, sentence, [task], rows, axis)


def _against_plain(
    results: ModelResults, name: str, question: str, variant: Callable[[RecordedPolicy], bool]
) -> Iterator[Figure]:
    """Lines of a variant beside the plain one of its press."""
    sentence = "A column is a press. Each line starts where nothing is evicted, on the left."
    for task in results.tasks:
        others = lines_of(results, task, variant)
        plain = lines_of(results, task, lambda line: _is_main(line) and not line.fair)
        lines: Lines = {press: {**plain.get(press, {}), **others[press]} for press in others}
        if lines:
            rows = [
                row(results, task, quantity._replace(label=label), of_row)
                for quantity in _outcomes(task)[: None if _fit_a_row(lines) else 1]
                for label, of_row in _rows_of_lines(lines, quantity.label)
            ]
            yield assembled(results, f"{name}_{task.name}", question, sentence, [task], rows)


def _outcomes(task: TaskResults) -> list[Quantity]:
    """What a setting may change, the main metric first: refusals, and how far answers are from the full cache's."""
    main = headline(task)
    quantities = [metric(task, main)] if main else []
    quantities += [metric(task, REFUSED)] if REFUSED in task.metrics() and main != REFUSED else []
    return quantities + ([_divergence(called(task, KL))] if KL in task.metrics() else [])


def _fit_a_row(lines: Lines) -> bool:
    return max(map(len, lines.values())) <= _MOST_LINES


def _rows_of_lines(lines: Lines, label: str) -> Iterator[tuple[str, Lines]]:
    """All lines in one row; if a panel would have more than three, a row for each setting, beside the plain line."""
    if _fit_a_row(lines):
        yield label, lines
        return
    for setting in sorted({setting for members in lines.values() for setting in members} - {PLAIN}):
        shown = {
            press: {name: members[name] for name in (PLAIN, setting) if name in members}
            for press, members in lines.items()
        }
        yield f"{setting}: {label}", {press: members for press, members in shown.items() if setting in members}


def _is_stored_otherwise(line: RecordedPolicy) -> bool:
    return not line.keep and (line.press == "none" or not _is_main(line))


def _is_main(line: RecordedPolicy) -> bool:
    return simple(line) and line.amount == "ratio"


def _row(results: ModelResults, task: TaskResults, name: str, label: str, lines: Lines | None = None) -> Row:
    return row(results, task, metric(task, name, label), main_lines(results, task) if lines is None else lines)


def _measuring(tasks: Sequence[TaskResults], name: str) -> list[TaskResults]:
    return [task for task in tasks if name in task.metrics()]


def _attacked(tasks: Sequence[TaskResults]) -> list[TaskResults]:
    """The leakage tasks of the paper's attack, "plain", if there are any; else all."""
    leaking = _measuring(tasks, LEAKED)
    return [task for task in leaking if "plain" in task.name] or leaking


def _kept(record: Record) -> float | None:
    entry = record.metrics.get(DIRECTIVE_KEPT)
    return None if entry is None else entry.value


def _mebibytes(record: Record) -> float | None:
    return None if record.kv_bytes_kept is None else record.kv_bytes_kept / 2**20


def _divergence(label: str) -> Quantity:
    return Quantity(label, _kl, False, None, _LINEAR_KL)


def _kl(record: Record) -> Point | None:
    """The full cache is at no distance from itself, whether or not that was measured."""
    return measured(record, KL) or ((0.0, None, None) if record.policy.full else None)
