"""Would policies of one prompt decode faster if they proposed each other's tokens? From a sweep's saved answers.

    python benchmarks/siblings.py runs/instruct/raccoon_plain/.sweep/journal.jsonl

Under greedy decoding a row may verify several tokens at once: those after the longest match of its last tokens in what
other policies have answered to the same prompt. The full cache answers first. *together*: then all others step by step,
side by side. *in turn*: each with the whole answers of those before it, which no batch of them can have. Printed are
tokens per row and step, and so the most that a step of 1 + k tokens may cost, in steps of one token, if it is to pay.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import common

LONGEST = 8  # tokens of a match
PROPOSED = (1, 2, 4, 8)

Answers = list[tuple[int, ...]]  # of one prompt, the full cache's first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", type=Path)
    prompts = read(parser.parse_args().journal)
    rows = [(k, *(rate(prompts, k, in_turn) for in_turn in (False, True))) for k in PROPOSED]
    n_policies = sorted({len(answers) for answers in prompts})
    print(f"{len(prompts)} prompts, {n_policies[0]} to {n_policies[-1]} policies each; tokens per row and step:")
    print(common.table(["proposed", "together", "in turn"], [[str(k), f"{a:.2f}", f"{b:.2f}"] for k, a, b in rows]))


def read(journal: Path) -> list[Answers]:
    """The answers to each prompt that the full cache, which keeps everything, has answered too."""
    by_prompt: dict[int, Answers] = defaultdict(list)
    led = set()
    for line in journal.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        if not answer.get("tokens"):
            continue
        answers = by_prompt[answer["request"]]
        full = answer["telemetry"]["keep_rate"] == 1
        led |= {answer["request"]} if full else set()
        answers.insert(0 if full else len(answers), tuple(answer["tokens"]))
    return [answers for prompt, answers in by_prompt.items() if prompt in led and len(answers) > 1]


def rate(prompts: Sequence[Answers], k: int, in_turn: bool) -> float:
    """Tokens per row and step of all rows but the full cache's, if each step verifies up to k proposed ones."""
    steps = sum(steps_in_turn(answers, k) if in_turn else steps_together(answers, k) for answers in prompts)
    return sum(len(answer) for answers in prompts for answer in answers[1:]) / steps


def steps_in_turn(answers: Answers, k: int) -> int:
    total = 0
    for index in range(1, len(answers)):
        done = 0
        while done < len(answers[index]):
            done += accepted(answers[index], done, answers[:index], k)
            total += 1
    return total


def steps_together(answers: Answers, k: int) -> int:
    total, done = 0, [len(answers[0]), *[0] * (len(answers) - 1)]
    while running := [i for i in range(1, len(answers)) if done[i] < len(answers[i])]:
        said = [answer[:n] for answer, n in zip(answers, done, strict=True)]
        for i in running:
            done[i] += accepted(answers[i], done[i], [*said[:i], *said[i + 1 :]], k)
        total += len(running)
    return total


def accepted(answer: Sequence[int], done: int, others: Sequence[Sequence[int]], k: int) -> int:
    """Tokens that one step gives a row with ``done`` tokens: the proposed ones that are its own, and one more."""
    right = 0
    for token in proposed(answer[:done], others, k):
        if done + right >= len(answer) - 1 or answer[done + right] != token:
            break
        right += 1
    return right + 1


def proposed(said: Sequence[int], others: Sequence[Sequence[int]], k: int) -> Sequence[int]:
    """Up to k tokens after the longest match of the last tokens in another answer; of the first of those as long."""
    if not said:
        return others[0][:k]
    for length in range(min(LONGEST, len(said)), 0, -1):
        last = tuple(said[-length:])
        for other in others:
            for start in range(len(other) - length, -1, -1):
                if tuple(other[start : start + length]) == last and start + length < len(other):
                    return other[start + length : start + length + k]
    return ()


if __name__ == "__main__":
    main()
