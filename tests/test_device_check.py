"""The device check, dry: every step's functions with the smallest amounts on the CPU, its bundle, and its summary."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement

from fairkv_eval.sweep.loaded_model import LoadedModel

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "device"
STEPS = ("invariants", "speed", "peers", "presses")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A script of the device check by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")}

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "figures.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_runs_dry(step: str, script, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    record = script("record").Record(step, tmp_path)
    script(step).run(script("work").DRY, record)
    figures = lines(tmp_path)
    assert not record.failed and not [figure for figure in figures if "error" in figure]
    assert [figure for figure in figures if not figure["figure"].endswith(": done")]
    assert step in script("summary").tables(figures)


def test_a_part_that_fails_is_recorded_and_the_next_goes_on(script, tmp_path: Path) -> None:
    record = script("record").Record("speed", tmp_path)

    def broken() -> None:
        raise RuntimeError("no such kernel")

    assert record.attempt("one", broken) is None and record.attempt("two", lambda: 2) == 2
    one, two = lines(tmp_path)
    assert one == {"step": "speed", "figure": "one", "error": "RuntimeError: no such kernel"}
    assert two["figure"] == "two: done" and record.failed
    with pytest.raises(SystemExit, match="1"):
        record.exit()
    assert script("summary").failures(lines(tmp_path))


def test_a_line_cut_off_hides_no_other(script, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "figures.jsonl").write_text('{"step": "speed", "figure": "prefill", "tokens": 1024}\n{"step": "sp')
    text = script("summary").tables(script("summary").read(tmp_path))
    assert "1024" in text and "nothing failed" in text and "not read" in capsys.readouterr().out


def test_a_file_in_parts_is_joined(script, tmp_path: Path) -> None:
    parts, content = script("model_parts"), bytes(range(256)) * 5
    (tmp_path / "model.gguf").write_bytes(content)
    folders = [tmp_path / f"load{i}" / "model" for i in (1, 2, 3)]
    for folder in folders:
        folder.mkdir(parents=True)
    paths = parts.split(tmp_path / "model.gguf", [600, 600, 600], tmp_path, iter(folders))
    assert [path.stat().st_size for path in paths] == [600, 600, 80]
    assert parts.join(tmp_path, tmp_path / "joined").read_bytes() == content
    paths[1].write_bytes(b"x" * 600)
    with pytest.raises(SystemExit, match=r"load2/model/model\.gguf\.2 is damaged"):
        parts.join(tmp_path, tmp_path / "again")
    paths[1].unlink()
    with pytest.raises(SystemExit, match=r"load2/model/model\.gguf\.2 is missing"):
        parts.join(tmp_path, tmp_path / "again")


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        text = "".join(f"Requires-Dist: {line}\n" for line in requires)
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{text}"
        )


def test_the_walk_takes_what_is_missing_and_checks_what_is_there(script, tmp_path: Path) -> None:
    wheels = script("wheels")
    windows, extra = "three; sys_platform == 'win32'", "three; extra == 'all'"
    wheel(tmp_path, "one", "1.0", "two>=2", "torch>=2.12", "numpy<3", windows, extra)
    wheel(tmp_path, "two", "1.5", "one")
    (tmp_path / "image.txt").write_text("torch==2.11.0  # a comment\nNumPy\n")
    collection = wheels.Collection(tmp_path, wheels.read_image(tmp_path / "image.txt"), {})
    collection.walk([Requirement("one")], "us")
    assert sorted(collection.wheels) == ["one", "two"]
    assert collection.misfits() == ["one wants two>=2, and there is 1.5", "one wants torch>=2.12, and there is 2.11.0"]
    assert collection.unverified() == ["numpy<3"]
    wheel(tmp_path, "three", "3.0")
    collection.walk([Requirement("one[all]")], "us")
    assert "three" in collection.wheels


def test_the_image_fits_what_the_project_requires(script) -> None:
    pytest.importorskip("tomllib")
    wheels = script("wheels")
    image = wheels.read_image(FOLDER / "image.txt")
    needed = wheels.roots(FOLDER.parents[1] / "pyproject.toml")
    for requirement in needed:
        if wheels.applies(requirement, {""}) and (version := image.get(requirement.name)):
            assert requirement.specifier.contains(version), requirement
    assert {"torch", "transformers", "huggingface-hub"} <= {requirement.name for requirement in needed} & image.keys()


def test_the_bundle_takes_what_an_extra_requires(script) -> None:
    pytest.importorskip("tomllib")
    wheels = script("wheels")
    pyproject = FOLDER.parents[1] / "pyproject.toml"
    needed = wheels.roots(pyproject)
    assert [str(more) for more in wheels.roots(pyproject, ["ruler"])[len(needed) :]] == ["wonderwords>=3.0"]
    with pytest.raises(SystemExit, match="no extra rulr; the extras are: dev, docs"):
        wheels.roots(pyproject, ["rulr"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_command_names_its_steps_and_its_bundle(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "BUNDLE": str(tmp_path)}

    def run(*steps: str, **more: str) -> subprocess.CompletedProcess:
        command = ["bash", str(FOLDER / "run.sh"), *steps]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True)

    wrong = run("spead", DRY="1")
    assert wrong.returncode == 2 and "there is no step spead; the steps are: gpu_tests invariants" in wrong.stdout
    missing = run("speed", DRY="")
    assert missing.returncode == 2 and "run `make device-bundle` first" in missing.stdout
    good = run("gpu_tests", "presses", DRY="1", FACTOR="5")
    assert good.returncode == 0, good.stdout + good.stderr
    assert (
        "nothing failed" in (tmp_path / "summary.txt").read_text()
        and "== presses" in (tmp_path / "log.txt").read_text()
    )
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\ncase "$*" in *presses.py*) exit 3;; esac\nexec {sys.executable} "$@"\n')
    stub.chmod(0o755)
    bad = run("presses", DRY="1", PYTHON=str(stub))
    assert bad.returncode == 1 and "FAILED presses: step: exit status 3" in bad.stdout


@pytest.mark.e2e
def test_a_grid_writes_its_cells_and_goes_on_after_a_sweep_that_fails(tmp_path: Path) -> None:
    demo = "--tasks sys_ifeval_demo --limit 2 --gen_kwargs max_gen_toks=2 --batch_size 4 --device cpu --output_path"
    (tmp_path / "sweeps.txt").write_text(
        f"--presses tova --ratios 0.5 {demo} {tmp_path}/one\n"
        f"# not a sweep\n--presses tofa --ratios 0.5 {demo} {tmp_path}/none\n"
        f"--presses knorm --ratios 0.5 --fair true {demo} {tmp_path}/two\n"
    )
    command = [sys.executable, FOLDER / "grid.py", tmp_path / "sweeps.txt", "--logs", tmp_path]
    run = subprocess.run([*map(str, command)], cwd=FOLDER.parents[1], capture_output=True, text=True, timeout=300)
    answers, cells = ((tmp_path / f"sweeps-{part}.log").read_text() for part in ("1", "cells"))
    assert run.returncode == 1, run.stderr + answers + cells
    assert answers.count("== 1/1: 2 answers") == 2 and "== 1/1: failed" in answers and "tofa" in answers
    assert cells.count("== cells: 1 cells") == 2 and "== cells: failed" in cells
    assert len([*tmp_path.glob("one/*/*/tova*/results_*.json"), *tmp_path.glob("two/*/*/knorm*/results_*.json")]) == 2
    for name in ("one", "two"):
        journal = tmp_path / name / ".sweep" / "journal-1-of-1.jsonl"
        assert len(journal.read_text().splitlines()) == 2 and not (tmp_path / "none").exists()


def test_a_grid_loads_a_model_once(script, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict] = []
    monkeypatch.setattr(LoadedModel, "load", lambda sweep, arguments: calls.append(arguments) or len(calls))
    script("grid").load_once()
    one, other = SimpleNamespace(batch_size=4, device="cpu"), SimpleNamespace(batch_size=8, device="cpu")
    arguments, others = {"dtype": "bfloat16", "pretrained": "a"}, {"pretrained": "a"}
    kept = [LoadedModel.load(sweep, of) for sweep in (one, one, other) for of in (arguments, others)]
    assert kept == [1, 2, 1, 2, 3, 4] and calls == [arguments, others] * 2
