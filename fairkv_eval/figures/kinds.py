"""The figures that results can show, the most important first: those of the pitfalls paper (arXiv 2510.00231), and
ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.figures import by_class, by_task
from fairkv_eval.figures.figure import Figure
from fairkv_eval.figures.model_results import ModelResults
from fairkv_eval.figures.panels import DEFENSE_LEAKED, DIRECTIVE_KEPT, FOLLOWED, LEAKED

MOST = 10  # figures that are drawn unless more are asked for


class Kind(NamedTuple):
    """A kind of figure. ``needs``: the results it is drawn from."""

    name: str
    needs: str
    make: Callable[[ModelResults], Iterator[Figure]]


KINDS = (
    Kind("overview", "a metric with a direction", by_task.overview),
    Kind("following_and_leakage", f"{FOLLOWED} and {LEAKED}", by_task.following_and_leakage),
    Kind("keep_rates", "keep_rate_<segment> of at least two segments", by_task.keep_rates),
    Kind("keep_rates_position", "keep_rate_position_<k> (sys_multi)", by_class.keep_rates_by_position),
    Kind("class_accuracy", "acc_<class> of at least two classes (sys_ifeval)", by_class.accuracy),
    Kind("class_ranking", "acc_<class> under the full cache and a press", by_class.ranking),
    Kind("single_multi", "acc_single and acc_multi (sys_ifeval)", by_class.single_multi),
    Kind("spread", "acc_<class> under the full cache and a press", by_class.spread),
    Kind("fidelity", "fidelity_kl (a sweep with fidelity)", by_task.fidelity),
    Kind("storage", "a press with fewer bits, merging or another setting", by_task.storage),
    Kind("directive_share", f"{FOLLOWED} and {DIRECTIVE_KEPT}", by_task.directive_share),
    Kind("whitelist", "a press with and without keep", by_task.whitelist),
    Kind("defense_leakage", DEFENSE_LEAKED, by_task.defense_leakage),
    Kind("flipped", f"{FOLLOWED} or {LEAKED} of a flipped task", by_task.flipped),
    Kind("fair", "a press with and without fair", by_task.fair),
    Kind("class_accuracy_relative", "acc_<class> under the full cache and a press", by_class.relative_accuracy),
    Kind("single_multi_relative", "acc_single and acc_multi above 0", by_class.relative_single_multi),
    Kind("class_ranking_single_multi", "acc_<class> and acc_single by document", by_class.ranking_single_multi),
    Kind("position_accuracy", "acc_position_<k> (sys_multi)", by_class.positions),
    Kind("position_accuracy_relative", "acc_position_<k> above 0", by_class.relative_positions),
    Kind("keep_rates_class", "keep_rate_<class> (sys_multi)", by_class.keep_rates_by_class),
    Kind("quality_bytes", "kv_bytes_kept", by_task.quality_bytes),
)


def figures(results: ModelResults) -> tuple[dict[str, list[Figure]], list[str]]:
    """All figures of one model's results by kind, and the kinds left out, each with what it needs."""
    drawn: dict[str, list[Figure]] = {}
    missing = []
    for kind in KINDS:
        made = [figure for figure in kind.make(results) if figure.panels]
        if made:
            drawn[kind.name] = made
        else:
            missing.append(f"{kind.name}: needs {kind.needs}")
    return drawn, [*missing, *by_task.halves_missing(results)]


def foremost(drawn: dict[str, list[Figure]]) -> list[Figure]:
    """The first figure of each of the first kinds, in reading order."""
    return [made[0] for made in drawn.values()][:MOST]


def named(drawn: dict[str, list[Figure]], names: Sequence[str]) -> list[Figure]:
    """The figures of these names, which may be those of kinds; without those that a model's results do not have."""
    every = [figure for made in drawn.values() for figure in made]
    found = [of for name in names for of in drawn.get(name) or [figure for figure in every if figure.name == name]]
    return list({figure.name: figure for figure in found}.values())


def check_named(of_models: Sequence[dict[str, list[Figure]]], names: Iterable[str]) -> None:
    """Raise UsageError for a name that no model's figures have, with what a kind of that name needs."""
    needs = {kind.name: kind.needs for kind in KINDS}
    for name in names:
        if any(named(drawn, [name]) for drawn in of_models):
            continue
        if name in needs:
            raise UsageError(f"these results have no figure {name!r}; it needs {needs[name]}")
        every = {figure.name for drawn in of_models for made in drawn.values() for figure in made}
        raise unknown("figure of these results", name, every.union(*of_models))
