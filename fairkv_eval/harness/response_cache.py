"""The answers in a ``--use_cache`` database, each stored under everything that decides it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from sqlitedict import SqliteDict

from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.provenance import claim_response_cache


class ResponseCache:
    """A database of one model and policy; without a database it holds nothing and stores nothing."""

    def __init__(self, database: SqliteDict | None = None, fingerprint: Mapping[str, Any] | None = None) -> None:
        """UsageError if the database belongs to another ``fingerprint``."""
        self._database = database
        if database is not None:
            claim_response_cache(database, dict(fingerprint or {}))
            # The harness holds this object too, and would use it by a request's text alone.
            database.__class__ = _ClosedToTexts

    def answers(
        self, keys: Sequence[str | None], compute: Callable[[Sequence[int]], Iterable[tuple[int, Any]]]
    ) -> list[Any]:
        """An answer per key: stored ones, and computed ones, which are stored as they come.

        ``compute`` yields (index, answer) for the indices that it gets. A request with no key (None) is not stored.
        """
        answers = [self._get(key) for key in keys]
        missing = [index for index, answer in enumerate(answers) if answer is None]
        for index, answer in compute(missing) if missing else ():
            answers[index] = answer
            key = keys[index]
            if self._database is not None and key is not None:
                SqliteDict.__setitem__(self._database, key, answer)
        return answers

    def _get(self, key: str | None) -> Any:
        if self._database is None or key is None or not SqliteDict.__contains__(self._database, key):
            return None
        return SqliteDict.__getitem__(self._database, key)


def interruption(answered: int, total: int, kind: str) -> str:
    """What Ctrl-C prints: what was answered, and how to go on."""
    return (
        f"\ninterrupted: {answered} of {total} {kind} requests were answered; with --use_cache their answers are kept, "
        "and the same command continues from there"
    )


class _ClosedToTexts(SqliteDict):
    """The harness's database as the harness sees it: empty, and deaf to what it stores.

    The harness stores an answer under the text of its request. The same text may be other messages, and another
    context and other segments, so the model looks its requests up itself.
    """

    def __contains__(self, key: object) -> bool:
        return False

    def __setitem__(self, key: str, value: Any) -> None:
        return None


def key_of(request: Instance, job: Job) -> str | None:
    """A key for a request's answer: its arguments, its tokens, their context, segments and marks, and what is wanted.

    None for a request that samples: the harness does not cache these.
    """
    if isinstance(job.want, Generation) and job.want.sampling.do_sample:
        return None
    prompt = job.prompt
    parts = (prompt.tokens, prompt.context_length, prompt.segments, prompt.marks, job.want)
    return _digest(request, *parts)


def key_of_rolling(request: Instance) -> str:
    """A key for a rolling log-likelihood, whose text alone decides it."""
    return _digest(request)


def _digest(request: Instance, *parts: object) -> str:
    return hashlib.sha256(
        repr((request.request_type, request.args, *parts)).encode("utf-8", "surrogatepass")
    ).hexdigest()
