"""Every command that a Markdown file or a help prints works as it is printed, and every printed file is as it says.

tests/support/printed_commands.py states what differs: a tiny model, two documents, and the commands that are not run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import dataset_stand_ins
import lm_eval.tasks
import printed_commands
import pytest
import tiny
from printed_commands import NOT_RUN, PAGES, ROOT, blocks, reason_not_run, rewritten, words_of

import fairkv_eval.model
from fairkv_eval import plugin
from fairkv_eval.cli import main
from fairkv_eval.commands import SUMMARIES
from fairkv_eval.files import resource_dir

LONG = {"results/README.md", "benchmarks/README.md", "docs/reading_results.md"}
LONG |= {"tasks/raccoon/README.md", "tasks/harness_offline/README.md"}
BLOCKS = {page: list(blocks(page)) for page in PAGES}
COMMANDS = {page: [command for block in of_page for command in block.commands] for page, of_page in BLOCKS.items()}
EXAMPLES = {name: import_module(f"fairkv_eval.commands.{name}").EXAMPLES for name in SUMMARIES}


def pages(texts: dict[Path, list[Any]]) -> list[Any]:
    named = [page for page in PAGES if texts[page]]
    marks = {page: [pytest.mark.long] if str(page) in LONG else [] for page in named}
    return [pytest.param(page, id=str(page), marks=marks[page]) for page in named]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny.model(max_position_embeddings=2**15).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def clone(tmp_path: Path, published: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone, with every file that a page prints, in which commands run."""
    for name in ("presses", "tasks", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("figures", "evidence"))
    for block in titled():
        (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))  # which a command may clear
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    plugin.install()
    return tmp_path


def titled() -> Iterator[printed_commands.Block]:
    return (block for of_page in BLOCKS.values() for block in of_page if block.title)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command line in this process; a benchmark only has to know its options."""
    if words[0] == "python":
        knows_its_options(words[1:])
        return
    with monkeypatch.context() as patch:
        few_tasks(words, patch)
        if words[0] == "fairkv":
            assert main(words[1:]) == 0
            return
        from lm_eval.__main__ import cli_evaluate

        patch.setattr(sys, "argv", words)
        cli_evaluate()


def few_tasks(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Let the harness index our tasks and those that the command names: all of its own take 16 s."""
    named = words[words.index("--tasks") + 1].split(",") if "--tasks" in words else []
    ours = resource_dir("tasks")
    theirs = [f.parent for name in named for f in dataset_stand_ins.FOLDER.rglob(f"{name}.yaml")]
    start = lm_eval.tasks.TaskManager.__init__

    def few(self: Any, *args: Any, include_path: Any = None, **options: Any) -> None:
        more = [include_path] if isinstance(include_path, (str, Path)) else include_path or []
        start(self, *args, include_path=[ours, *theirs, *more], **{**options, "include_defaults": False})

    patch.setattr(lm_eval.tasks.TaskManager, "__init__", few)
    dataset_stand_ins.words(patch)
    if theirs:
        dataset_stand_ins.use(patch)


def knows_its_options(words: list[str]) -> None:
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options_of(words[0])


@cache
def options_of(script: str) -> frozenset[str]:
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return frozenset(re.findall(r"--\w+", done.stdout))


@pytest.mark.parametrize("page", pages(COMMANDS))
def test_commands_of_a_page_run_in_their_order(
    page: Path, model: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in COMMANDS[page]:
        if not reason_not_run(command):
            words = words_of(command, clone)
            run(words if words[0] == "python" else rewritten(words, model), monkeypatch)


@pytest.mark.long
def test_examples_of_every_help_run(model: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sorted(EXAMPLES, key=lambda name: name != "sweep"):  # the others read what the sweep wrote
        for example in EXAMPLES[name]:
            run(rewritten(words_of(example, clone), model), monkeypatch)


@pytest.mark.parametrize(
    "page", pages({p: [b for b in of if b.language == "python" and not b.title] for p, of in BLOCKS.items()})
)
def test_python_of_a_page_runs(page: Path, model: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = lm_eval.simple_evaluate

    def few(name: str, model_args: str, **options: Any) -> Any:
        return evaluate(name, f"pretrained={model},dtype=float32,{model_args}", **{"limit": 2, **options})

    few_tasks([], monkeypatch)
    monkeypatch.setattr(lm_eval, "simple_evaluate", few)
    tiny_model = partial(fairkv_eval.model.FairKV, pretrained=model, dtype="float32")
    monkeypatch.setattr(fairkv_eval.model, "FairKV", tiny_model)
    for block in BLOCKS[page]:
        if block.language == "python" and not block.title:
            exec(compile(block.text, f"{page}:{block.line}", "exec"), {"__name__": "printed"})


def test_what_is_not_run_is_printed_somewhere() -> None:
    """An entry of the list that no page needs any more goes."""
    commands = [command for of_page in COMMANDS.values() for command in of_page]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)] == []


def test_printed_files_have_one_text_each() -> None:
    names = [block.title for block in titled()]
    assert sorted(names) == sorted(set(names))


def test_a_block_s_commands_are_seen_as_a_shell_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text(
        "Text.\n\n    fairkv presses  # all\n\n"
        "```bash\nlm_eval --tasks a \\\n    --limit 3\nA=1 python b.py > out\n```\n"
        '\n```yaml title="s.yaml"\nfairkv: 1\n```\n\n```python\npython = 3\n```\n\n    a diagram → of arrows\n'
    )
    monkeypatch.setattr(printed_commands, "ROOT", tmp_path)
    commands = [command for block in blocks(Path("page.md")) for command in block.commands]
    assert commands == ["fairkv presses  # all", "lm_eval --tasks a --limit 3", "A=1 python b.py > out"]
    assert words_of(commands[0], tmp_path) == ["fairkv", "presses"]
    assert rewritten(["lm_eval", "--limit", "3", "--model_args", "pretrained=x,press=tova"], "M")[:5] == [
        *("lm_eval", "--model_args", "pretrained=M,dtype=float32,press=tova", "--limit", "2")
    ]
