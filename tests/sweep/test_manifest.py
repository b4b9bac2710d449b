"""Finished cells are finished: damage is noticed when a sweep resumes, and a disk that is full is reported."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from tiny_sweeps import cell_files, cell_metrics, tiny_sweep

from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV
from fairkv_eval.sweep import manifest
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("only_these_tasks")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = {"truncated": truncate, "emptied": empty, "deleted": Path.unlink}


def test_a_damaged_cell_is_scored_again_from_its_journal(
    task_folder: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "again"
    shutil.copytree(unbroken, output)
    files = sorted(output.glob("model/*/*/*_*.json*"))
    for path, damage in zip(files, [*DAMAGE.values()] * 2, strict=False):
        damage(path)
    old = sorted(output.glob(f"model/*/*/{manifest.NAME}"))[-1]  # of a version that wrote none
    truncate(next(old.parent.glob("samples_*")))
    old.unlink()
    monkeypatch.setattr(FairKV, "run", lambda self, jobs: pytest.fail("computed again"))
    run_sweep(tiny_sweep(task_folder, output))
    assert cell_metrics(output) == cell_metrics(unbroken)
    assert not list(output.glob("model/*/.*"))


def test_what_is_whole_is_not_written_again(task_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    shutil.copytree(unbroken, output)
    next(output.glob(f"model/*/*/{manifest.NAME}")).unlink()  # of a version that wrote none
    before = {path: path.stat().st_mtime_ns for path in output.glob("model/*/*/results_*")}
    run_sweep(tiny_sweep(task_folder, output))
    assert {path: path.stat().st_mtime_ns for path in output.glob("model/*/*/results_*")} == before


@pytest.mark.parametrize("kind", ["results_", "samples_"])
def test_a_full_disk_is_reported_and_the_sweep_goes_on_later(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The harness's tracker logs what it could not write, and leaves a file of a part."""
    sweep = tiny_sweep(task_folder, tmp_path, presses="tova", fair=False, tasks=["say"])
    whole = Path.open

    def full(self: Path, mode: str = "r", *rest, **options):
        if self.name.startswith(kind) and "w" in mode:
            self.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, mode, *rest, **options)

    def full_open(path, mode="r", *rest, **options):
        return full(Path(path), mode.replace("a", "w"), *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr("lm_eval.loggers.evaluation_tracker.open", full_open, raising=False)
        with pytest.raises(UsageError, match=r"cell full-\w+ of say could not be written .*No space left on device"):
            run_sweep(sweep)
    assert not cell_files(tmp_path)
    monkeypatch.setattr(FairKV, "run", lambda self, jobs: pytest.fail("computed again"))
    run_sweep(sweep)
    assert len(cell_files(tmp_path)) == 2


def test_files_that_the_disk_cut_off_without_an_error(tmp_path: Path) -> None:
    (tmp_path / "results_1.json").write_text("{}")
    samples = tmp_path / "samples_say_1.jsonl"
    samples.write_text('{"doc_id": 0}\n{"doc_id": 1}\n')
    manifest.complete(tmp_path, 2)
    assert json.loads((tmp_path / manifest.NAME).read_text()) == {"results_1.json": 2, samples.name: 28}
    with pytest.raises(UsageError, match="holds 2 of 3 samples"):
        manifest.complete(tmp_path, 3)
    samples.write_text('{"doc_id": 0}\n{"doc')
    with pytest.raises(UsageError, match="were cut off"):
        manifest.complete(tmp_path, 2)
    samples.unlink()
    with pytest.raises(UsageError, match=r"holds 0 files samples_\*\.jsonl"):
        manifest.complete(tmp_path, 2)


def test_a_file_in_the_place_of_a_folder(task_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    shutil.copytree(unbroken, output)
    cell = next(output.glob("model/say/full-*"))
    shutil.rmtree(cell)
    cell.write_text("")
    with pytest.raises(UsageError, match=r"full-\w+' is a file, and a cell's folder goes there"):
        run_sweep(tiny_sweep(task_folder, output))
    cell.unlink()
    shutil.rmtree(output / ".sweep")
    (output / ".sweep").write_text("")
    with pytest.raises(UsageError, match=r"cannot write '.*again': (File exists|Not a directory)"):
        run_sweep(tiny_sweep(task_folder, output))
    (output / ".sweep").unlink()
    (output / ".sweep" / "lock").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"output_path='.*again' cannot be locked \(Is a directory\)"):
        run_sweep(tiny_sweep(task_folder, output))


def test_a_model_s_folder_may_lie_on_another_file_system(task_folder: Path, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        (tmp_path / "model").symlink_to(elsewhere)
        run_sweep(tiny_sweep(task_folder, tmp_path, presses="tova", fair=False, tasks=["say"]))
        assert len(cell_files(tmp_path)) == 2 and not list((tmp_path / ".sweep" / "unfinished").iterdir())


@pytest.mark.parametrize("path", ["a\0b", "file/below"])
def test_a_path_that_cannot_be_a_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write "), SweepFolder(tmp_path / path).lock():
        pass
