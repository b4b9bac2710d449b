"""What the model answers: the harness's own kinds of value, with what eviction did to the context attached."""

from __future__ import annotations

from typing import Any


class Response(str):
    """Generated text that carries ``telemetry``: tokens, kept tokens, keep rate of each segment, KV bytes.

    It is an ordinary string to the harness (filters, JSON, response cache) and survives pickling.
    """

    telemetry: dict[str, Any] | None

    def __new__(cls, text: str = "", telemetry: dict[str, Any] | None = None) -> Response:
        response = super().__new__(cls, text)
        response.telemetry = telemetry
        return response

    def __getnewargs__(self) -> tuple[str, dict[str, Any] | None]:  # type: ignore[override]
        return str(self), self.telemetry


class LogLikelihoodResponse(tuple[float, bool]):
    """A score, (log-likelihood in nats, is greedy), that carries ``telemetry`` as a Response does, and in it
    ``continuation_tokens``: how many tokens the log-likelihood is the sum of."""

    telemetry: dict[str, Any] | None

    def __new__(cls, logprob: float, greedy: bool, telemetry: dict[str, Any] | None = None) -> LogLikelihoodResponse:
        answer = super().__new__(cls, (logprob, greedy))
        answer.telemetry = telemetry
        return answer

    def __getnewargs__(self) -> tuple[float, bool, dict[str, Any] | None]:
        return self[0], self[1], self.telemetry
