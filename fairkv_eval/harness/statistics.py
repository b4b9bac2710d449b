"""The statistics of one model that presses need: measured once and kept in the cache folder, or read from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from fairkv_eval import source_digest
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Job
from fairkv_eval.engine.measure import measure
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import model_statistics
from fairkv_eval.eviction.model_statistics import ModelStatistics
from fairkv_eval.eviction.parameter import STATISTICS
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Parameters, Press, accepted
from fairkv_eval.files import cache_dir, folder, writing
from fairkv_eval.harness.model_identity import identity_sha256, unidentified

_SAMPLE = 16  # tokens of a pass that only shows how a rule's tensors are shaped


class Measurable(Protocol):
    """What this needs of `FairKV`."""

    rank: int
    max_length: int

    @property
    def model_identity(self) -> dict[str, Any]: ...

    def engine(self, rows: int) -> Engine: ...

    def tok_encode(self, string: str) -> Sequence[int]: ...


_Rule = partial[Mapping[str, Tensor]]  # with its parameters, a function of a layer


class Statistics:
    """Binds policies to the statistics that their presses need of a model ``lm``.

    A rule measures the model on `model_statistics.text`, cut to what the model takes. What it made is kept under the
    model's identity, the rule's source and parameters, and the text.
    """

    def __init__(self, lm: Measurable) -> None:
        self.lm = lm
        self._bound: dict[Policy, Policy] = {}

    def bound(self, policy: Policy) -> Policy:
        """The policy with the statistics that its press needs. UsageError if they are a file that is none of these."""
        if policy.press is None or not policy.press.needs_statistics:
            return policy
        if policy not in self._bound:
            press = policy.press.bound(partial(self._of, parameters=policy.parameters))
            self._bound[policy] = replace(policy, press=press)
        return self._bound[policy]

    def job(self, job: Job) -> Job:
        """The job under its policy with the statistics that this needs; they are measured only for what really runs."""
        policy = self.bound(job.policy)
        return job if policy is job.policy else replace(job, policy=policy)

    def describe(self, policy: Policy) -> dict[str, Any]:
        """``statistics`` of a policy for its result; {} if it needs none."""
        press = self.bound(policy).press
        measured = press.known_statistics if press else None
        return {} if measured is None else {"statistics": {"sha256": measured.sha256, **measured.about}}

    def write(self, path: str, rule: str, tensors: Mapping[str, Tensor]) -> Path:
        """Write tensors ``[layers, ...]`` of any origin as statistics of this model, for ``statistics=<path>``.

        rule: the name of the function in `statistics` that would have measured them.
        """
        about = {"statistics": rule, "model": self.model_sha256, "text": "", "parameters": ""}
        return ModelStatistics({name: t.float().cpu() for name, t in tensors.items()}, about).write(Path(path))

    @cached_property
    def model_sha256(self) -> str:
        """SHA-256 of what the model was made of: its files, commits or tensors. UsageError if that is not known."""
        source = unidentified(self.lm.model_identity)
        if source:
            raise UsageError(f"statistics cannot be kept: {source} of the model is not identified")
        return identity_sha256(self.lm.model_identity["sources"])

    def _of(self, press: Press, parameters: Parameters) -> ModelStatistics:
        assert press.statistics is not None
        typed = accepted(press.statistics, parameters)
        rule = partial(press.statistics, **typed)
        path = str(dict(parameters).get(STATISTICS) or "")
        if path:
            return self._from_file(Path(path), press.name, rule)
        if unidentified(self.lm.model_identity):
            return self._measured(press.name, rule)
        parts = {
            "identity": self.lm.model_identity,
            "rule": source_digest.digest([press.statistics]),
            "parameters": typed,
            "text": _text_sha256(),
        }
        name = f"{_name(rule)}-{identity_sha256(parts)[:32]}"
        return self._kept(folder(cache_dir() / "statistics") / f"{name}.safetensors", press.name, rule)

    def _kept(self, path: Path, press: str, rule: _Rule) -> ModelStatistics:
        """The statistics in a file of the cache folder, measured if it is not there; one process measures."""
        with writing(path):
            lock = FileLock(path.with_suffix(".lock"))
            lock.acquire()
        try:
            if not path.is_file():
                self._measured(press, rule).write(path)
            return ModelStatistics.read(path)
        finally:
            lock.release()

    def _measured(self, press: str, rule: _Rule) -> ModelStatistics:
        engine, tokens = self.lm.engine(1), self.lm.tok_encode(model_statistics.text())[: self.lm.max_length]
        label = f"statistics of press {press!r}"
        silent = self.lm.rank != 0
        with tqdm(total=len(engine.windows), disable=silent, desc=f"Measuring {label}", unit="layer") as bar:
            tensors = measure(engine, tokens, rule, label, bar.update)
        about = {
            "statistics": _name(rule),
            "model": "" if unidentified(self.lm.model_identity) else self.model_sha256,
            "text": _text_sha256(),
            "tokens": str(len(tokens)),
            "parameters": ",".join(f"{name}={value}" for name, value in rule.keywords.items()),
        }
        return ModelStatistics(tensors, about)

    def _from_file(self, path: Path, press: str, rule: _Rule) -> ModelStatistics:
        """The statistics in a user's file. UsageError if they are of another model or rule, or have other shapes."""
        statistics = ModelStatistics.read(path)
        wanted = {"statistics": _name(rule), "model": self.model_sha256}
        for key, value in wanted.items():
            if statistics.about.get(key) != value:
                raise UsageError(
                    f"{STATISTICS}={str(path)!r} is not for this press and model: its {key} is "
                    f"{statistics.about.get(key)!r}, not {value!r}"
                )
        sample = measure(self.lm.engine(1), range(3, 3 + _SAMPLE), rule, f"statistics of press {press!r}")
        shapes = ModelStatistics(sample, {}).shapes
        if statistics.shapes != shapes:
            raise UsageError(
                f"{STATISTICS}={str(path)!r} holds {_listed(statistics.shapes)}; press {press!r} needs "
                f"{_listed(shapes)} of this model"
            )
        return statistics


def _name(rule: _Rule) -> str:
    return str(getattr(rule.func, "__name__", type(rule.func).__name__))


def _text_sha256() -> str:
    return hashlib.sha256(model_statistics.text().encode()).hexdigest()


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
