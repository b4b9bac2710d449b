"""The commands that Markdown files print, and how a test runs them: on a tiny model, with two documents, in a clone.

What differs from the printed command is all in `rewritten`; what is not run, and why, is in NOT_RUN.
"""

from __future__ import annotations

import glob
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "*/README.md", "results/needle.md", "tasks/*/README.md")
    for path in set(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"
)
PROGRAMS = ("lm_eval", "fairkv", "python", "python3", "pip", "make", "git", "accelerate", "export", "echo", "cd")
_SHELLS = ("", "bash", "sh", "shell", "console")
# Commands that are not run here, by what they begin with, and why.
NOT_RUN = {
    "git clone": "downloads the repository that is tested",
    "make ": "installs into a fresh environment; continuous integration runs it in a fresh clone",
    "python3 -m venv": "an environment of its own, for a package that needs another version of transformers",
    "echo torch==": "belongs to the environment of that package",
    ".venv-kvpress/": "belongs to the environment of that package",
    "export KVPRESS_PYTHON": "belongs to the environment of that package",
    "accelerate launch": "needs several GPUs; tests/harness/test_processes.py runs two processes",
    "ACCELERATE_USE_CPU=true accelerate launch": "starts processes; tests/harness/test_processes.py runs two",
}


@dataclass(frozen=True)
class Block:
    """A code block of a page: ``language``, the ``title`` of a file that it prints or "", and the line it begins in."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The command lines of a block for a shell, joined where they are continued; [] for any other block."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if self.language not in _SHELLS or self.title:
            return []
        return [line.removeprefix("$ ") for line in lines if _is_command(line.removeprefix("$ "))]


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, fenced or indented."""
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language, _, rest = token.info.partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            yield Block(page, (token.map or [0])[0] + 1, language, title[1] if title else "", token.content)


def reason_not_run(command: str) -> str:
    """Why a command is on the list of those not run; "" if it is not on it."""
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), "")


def words_of(command: str, folder: Path) -> list[str]:
    """The words of a command as a shell in ``folder`` splits them, without its comment and what ``>`` names."""
    words = shlex.split(command, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    return [name for word in words for name in _expanded(word, folder)]


def _expanded(word: str, folder: Path) -> list[str]:
    if "*" not in word:
        return [word]
    names = sorted(glob.glob(word, root_dir=folder))
    if not names:
        raise AssertionError(f"{word} matches no file")
    return names


def _is_command(line: str) -> bool:
    program = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line).partition(" ")[0]
    return program in PROGRAMS or program.startswith(".venv")


def rewritten(words: Sequence[str], model: str) -> list[str]:
    """A command of lm_eval or fairkv on the tiny model in a folder, with two documents and short answers."""
    name, *rest = words
    if name == "lm_eval":
        rest = _with_model(_without(rest, "--limit", "--device"), model)
        return [name, *rest, "--limit", "2", "--device", "cpu", *_short(rest)]
    command, *rest = rest
    if command == "sweep":
        rest = _without(_with_model(rest, model), "--limit", "--device", "--launcher")
        return [name, command, *rest, "--limit", "2", "--device", "cpu", *_short(rest), "--bootstrap_iters", "0"]
    if command == "view" and rest[0].startswith("runs/"):
        return [name, command, *rest, "--model_args", f"pretrained={model}"]
    if command == "view":
        return [name, command, *_with_model(rest, model)]
    if command == "tasks" and "--check" in rest:
        return [name, command, *_without(rest, "--limit"), "--limit", "2", "--pretrained", model]
    return [name, command, *rest]


def _short(words: Sequence[str]) -> list[str]:
    return [] if "--gen_kwargs" in words else ["--gen_kwargs", "max_gen_toks=4"]


def _with_model(words: Sequence[str], model: str) -> list[str]:
    """The words with the tiny model and its dtype in place of a model's own."""
    words = list(words)
    if "--model_args" not in words:
        return [*words, "--model_args", f"pretrained={model},dtype=float32"]
    at = words.index("--model_args") + 1
    if words[at].startswith("{"):
        words[at] = json.dumps({**json.loads(words[at]), "pretrained": model, "dtype": "float32"})
        return words
    arguments = re.sub(r"(?:^|,)(?:pretrained|gguf_file|dtype)=[^,]*", "", words[at]).strip(",")
    words[at] = f"pretrained={model},dtype=float32,{arguments}"
    return words


def _without(words: Sequence[str], *options: str) -> list[str]:
    """The words without these options and their values."""
    return [w for i, w in enumerate(words) if w not in options and (i == 0 or words[i - 1] not in options)]
