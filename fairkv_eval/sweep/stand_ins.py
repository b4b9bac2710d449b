"""Harness models that compute nothing: one to build a task's requests with, one that replays a cell's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from fairkv_eval.harness.response import LogLikelihoodResponse, Response
from fairkv_eval.sweep.journal import Slot


class RequestsBuilt(Exception):
    """Raised once the harness has built a task's requests and asks for their answers."""


class TemplateModel(LM):
    """Renders chats as the model ``like`` does, and stops an evaluation with RequestsBuilt before anything is answered.

    The requests are then `task.instances`, as any model would get them.
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
        raise RequestsBuilt

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise RequestsBuilt

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise RequestsBuilt


class ReplayModel(TemplateModel):
    """Replays the answers of a cell to ``requests``."""

    def __init__(
        self,
        like: Any,
        requests: Sequence[Instance],
        answers: Mapping[Slot, Response | LogLikelihoodResponse],
    ) -> None:
        super().__init__(like)
        self._index = {id(request): index for index, request in enumerate(requests)}
        self._answers = answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._replay(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self._replay(requests)

    def _replay(self, requests: list[Instance]) -> list[Any]:
        """The harness repeats a request by listing it several times."""
        repeats: Counter[int] = Counter()
        answers = []
        for request in requests:
            index = self._index[id(request)]
            answers.append(self._answers[Slot(index, repeats[index])])
            repeats[index] += 1
        return answers
