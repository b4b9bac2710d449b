"""The model's answers: the harness's own types, with telemetry of the eviction attached."""

from __future__ import annotations

from typing import Any


class Response(str):
    """Generated text with ``telemetry``: tokens, kept tokens, keep rate per segment, KV bytes.

    The harness sees an ordinary string (filters, JSON, response cache). It survives pickling.
    """

    telemetry: dict[str, Any] | None

    def __new__(cls, text: str = "", telemetry: dict[str, Any] | None = None) -> Response:
        response = super().__new__(cls, text)
        response.telemetry = telemetry
        return response

    def __getnewargs__(self) -> tuple[str, dict[str, Any] | None]:  # type: ignore[override]
        return str(self), self.telemetry


class LogLikelihoodResponse(tuple[float, bool]):
    """A score, (log-likelihood in nats, is greedy), with ``telemetry`` as a Response has.

    Its ``continuation_tokens`` is the number of tokens over which the log-likelihood is summed; ``choice_tokens`` and
    ``choice_logprob`` leave out white space that the harness moves from the end of the context into the continuation.
    """

    telemetry: dict[str, Any] | None

    def __new__(cls, logprob: float, greedy: bool, telemetry: dict[str, Any] | None = None) -> LogLikelihoodResponse:
        answer = super().__new__(cls, (logprob, greedy))
        answer.telemetry = telemetry
        return answer

    def __getnewargs__(self) -> tuple[float, bool, dict[str, Any] | None]:
        return self[0], self[1], self.telemetry
