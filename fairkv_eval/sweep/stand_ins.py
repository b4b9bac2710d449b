"""A harness model that knows its answers: what a sweep has found is scored by the harness's own `evaluate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from fairkv_eval.harness.response import Response


class Asked(Exception):
    """The harness has built its requests, and asks for answers."""


class Asking(LM):
    """Stops an evaluation once its requests are built: they are then `task.instances`, as any model would get them.

    ``like``: the model whose chat template renders them.
    """

    def __init__(self, like: Any) -> None:
        super().__init__()
        self._like = like

    @property
    def tokenizer_name(self) -> str:
        return str(self._like.tokenizer_name)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return str(self._like.chat_template(chat_template))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(self._like.apply_chat_template(chat_history, add_generation_prompt))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        raise Asked

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise Asked

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise Asked


class Knowing(Asking):
    """Gives each of ``requests`` its answer, by its place among them and how often it was asked before."""

    def __init__(
        self,
        like: Any,
        requests: Sequence[Instance],
        answers: Mapping[tuple[int, int], Response | tuple[float, bool]],
    ) -> None:
        super().__init__(like)
        self._places = {id(request): place for place, request in enumerate(requests)}
        self._answers = answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._known(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self._known(requests)

    def _known(self, requests: list[Instance]) -> list[Any]:
        asked: Counter[int] = Counter()
        answers = []
        for request in requests:
            place = self._places[id(request)]
            answers.append(self._answers[place, asked[place]])
            asked[place] += 1
        return answers
