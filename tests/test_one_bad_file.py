"""One bad file never ends a command: it is left out by name, and the others are read as if it were not there."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import published_baseline
import pytest
from mutations import mutated_text

from fairkv_eval.analysis.recommend import recommend
from fairkv_eval.analysis.two_runs import compare
from fairkv_eval.errors import UsageError
from fairkv_eval.figures.kinds import figures
from fairkv_eval.figures.model_results import arrange
from fairkv_eval.findings.report import reports as findings
from fairkv_eval.findings.tables import as_json
from fairkv_eval.leaderboard.board import build, dumped
from fairkv_eval.leaderboard.html import as_html
from fairkv_eval.leaderboard.tables import as_csv, as_markdown
from fairkv_eval.results.publish import publish
from fairkv_eval.results.published_results import FILE
from fairkv_eval.results.reader import read
from fairkv_eval.results.selection import selected

POLICIES = ("full", "knorm_ratio=0.3-", "knorm_ratio=0.3_fair=1", "tova_ratio=0.6-", "tova_ratio=0.9-")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of the repository's own results of a task, with their samples."""
    folder = tmp_path_factory.mktemp("few")
    for policy in POLICIES:
        (result,) = published_baseline.results(f"/raccoon_preference/{policy}")
        published_baseline.write(result, folder)
    return folder


def run_all(folder: Path, output: Path, changed: Path, same: Path) -> None:
    """What `leaderboard`, `figures`, `findings`, `recommend`, `publish` and `compare` do with the folder."""
    records = read(folder)
    board = build(records, folder)
    for text in (dumped(board), as_csv(board), as_markdown(board), as_html(board)):
        text.encode()
    for results in arrange(selected([folder]).records)[0]:
        figures(results)
    as_json(findings([folder]))
    publish([folder], output)
    for call in (lambda: compare(same, changed), lambda: compare(changed, same), lambda: recommend([folder])):
        try:
            call()
        except UsageError as error:  # one line, and about the file or what it says
            assert len(str(error)) < 2000


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.long)])
def test_results_that_are_changed_at_random(few: Path, tmp_path: Path, count: int) -> None:
    files = sorted(few.iterdir())
    for seed in range(count):
        draw = random.Random(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(few, folder)
        path = folder / draw.choice(files).name
        path.write_bytes(mutated_text(path.read_text(), draw))
        dated = path.name.rpartition("_")[2].partition(".json")[0]
        changed = folder / f"results_{dated}.json"
        same = next(path for path in sorted(folder.glob("results_*")) if path != changed)
        try:
            run_all(folder, folder / "published", changed, same)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {path.name}") from error
        shutil.rmtree(folder)


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.long)])
def test_published_results_that_are_changed_at_random(few: Path, tmp_path: Path, count: int) -> None:
    whole = tmp_path / "whole"
    publish([few], whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    first, second = (path.name for path in sorted(few.glob("results_*.json"))[:2])
    for seed in range(count):
        draw = random.Random(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(whole, folder)
        path = folder / draw.choice(files)
        content = path.read_bytes()
        if path.name == FILE and draw.random() < 0.8:
            text = json.dumps(json.loads(gzip.decompress(content)))
            path.write_bytes(gzip.compress(mutated_text(text, draw)))
        else:
            at = draw.randrange(len(content))
            path.write_bytes(content[:at] + draw.randbytes(draw.randrange(9)) + content[at + draw.randrange(9) :])
        try:
            run_all(folder, tmp_path / f"{seed} again", folder / first, folder / second)
        except UsageError as error:
            assert len(str(error)) < 2000
        except Exception as error:
            raise AssertionError(f"seed {seed}, {path.name}") from error
        shutil.rmtree(folder)
