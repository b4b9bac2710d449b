"""One task of a result file: the policy, the metrics, the costs and the origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fairkv_eval.results import samples
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.sample_file import SampleSource

IDENTITY = "identity"  # the condition that is the digest of the model's identity


class Metric(NamedTuple):
    """A metric over ``n`` documents; ``stderr`` is None if the harness gives none.

    ``n`` counts the documents of the task, which may be more than those the metric applies to.
    """

    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Record:
    """One task of one result file.

    ``source``: the harness's name of the model class (``fairkv``, ``hf``). ``conditions``: all else that could change
    an answer (prompts, generation, dtype, seeds): only records of one model and equal conditions are comparable.
    ``answers_cut``: how many answers have as many tokens as they may; None if that is not known of this task.
    ``kv_bytes_*``: mean bytes per context. ``tokens_per_second``: {"prefill", "tail", "decode"}. ``date``: seconds
    since 1970. ``cell``: the sweep's identifier of the cell. ``repeats``: answers to each request. ``arguments``: the
    run's own settings, to run it again.
    ``sample_source``: the samples that were logged, None if there are none.
    """

    path: Path
    source: str
    model: str
    model_sha: str | None
    policy: RecordedPolicy
    conditions: tuple[tuple[str, Any], ...]
    task: str
    version: Any
    metrics: Mapping[str, Metric]
    higher_is_better: Mapping[str, bool | None]
    n: int
    n_original: int | None
    limit: float | None
    achieved_ratio: float | None
    answers_cut: int | None
    kv_bytes_full: float | None
    kv_bytes_kept: float | None
    tokens_per_second: Mapping[str, float]
    date: float | None
    commit: str | None
    versions: Mapping[str, str]
    task_hash: str | None
    arguments: Mapping[str, Any] = field(compare=False)
    cell: str | None = None
    repeats: int = 1
    sample_source: SampleSource | None = field(default=None, compare=False)

    @property
    def run(self) -> tuple[Any, ...]:
        """What records must share to be compared: model, weights, conditions, task and its version."""
        return (self.model, self.model_sha, self.conditions, self.task, self.version)

    @property
    def held(self) -> float | None:
        """The bytes held as a share of the full cache's: as measured, else 1 for a full cache and None for others."""
        if self.kv_bytes_full and self.kv_bytes_kept is not None:
            return self.kv_bytes_kept / self.kv_bytes_full
        return 1.0 if self.policy.full else None

    @property
    def identity(self) -> str | None:
        """The digest of the model's identity, which is one of the conditions; None if the run recorded none."""
        return dict(self.conditions).get(IDENTITY)

    def without_identity(self) -> Record:
        return replace(self, conditions=tuple(pair for pair in self.conditions if pair[0] != IDENTITY))

    def with_identity(self, identity: str) -> Record:
        return replace(self, conditions=(*self.without_identity().conditions, (IDENTITY, identity)))

    def lines(self) -> list[dict[str, Any]]:
        """The logged samples as the harness wrote them; [] without them. Raise UsageError if they are damaged, or are
        not those of this result."""
        return self.sample_source.lines() if self.sample_source else []

    def samples(self) -> dict[str, dict[str, float]]:
        """{document: {metric: value}} of the metrics that are means over documents (see `samples.by_document`)."""
        return samples.by_document(self.lines(), {name: metric.value for name, metric in self.metrics.items()})


def direction(record: Record, metric: str) -> bool | None:
    """Whether higher values of a metric, which may be named ``metric,filter``, are better; None for neither."""
    return record.higher_is_better.get(metric.partition(",")[0])
