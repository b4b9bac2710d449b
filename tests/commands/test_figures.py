"""`fairkv figures`: what it draws, prints and refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import synthetic_results
import synthetic_sweep

from fairkv_eval.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    synthetic_sweep.write(path, presses=("snapkv", "tova"), tasks=("raccoon_plain", "sys_multi"), n=12)
    return path


def draw(folder, output, *flags):
    return main(["figures", str(folder), "--output_path", str(output), *flags])


def names(output: Path) -> set[str]:
    return {path.name for path in output.iterdir()}


def test_ten_figures_and_their_page(folder, tmp_path, capsys):
    assert draw(folder, tmp_path) == 0
    printed = capsys.readouterr().out
    pictures = {name for name in names(tmp_path) if name.endswith(".png")}
    assert len(pictures) == 10 and names(tmp_path) == {*pictures, "index.html"}
    assert "overview: What does each press cost at equal bytes, plain and fair?" in printed
    assert "more by --all or --only: " in printed and "left out: fidelity: needs fidelity_kl" in printed
    assert all(f'id="{Path(name).stem}"' in (tmp_path / "index.html").read_text() for name in pictures)


def test_all_figures_and_svg_are_drawn_if_asked_for(folder, tmp_path, capsys):
    assert draw(folder, tmp_path, "--all", "--svg", "--tasks", "raccoon_plain") == 0
    assert {"quality_bytes_raccoon_plain.png", "quality_bytes_raccoon_plain.svg", "index.html"} <= names(tmp_path)
    assert "more by --all" not in capsys.readouterr().out


def test_figures_are_drawn_by_name(folder, tmp_path):
    assert draw(folder, tmp_path, "--only", "overview,quality_bytes") == 0
    pictures = {"overview.png", "quality_bytes_raccoon_plain.png", "quality_bytes_sys_multi.png"}
    assert names(tmp_path) == {*pictures, "index.html"}


@pytest.mark.parametrize(
    "given, message",
    [
        (["--tasks", "raccoon_plane"], "Did you mean 'raccoon_plain'"),
        (["--model", "small"], "unknown model with results 'small'"),
        (["--output_path", "{folder}/a_file"], "is a file"),
        (["--only", "overvew"], "Did you mean 'overview'"),
        (["--only", "fidelity"], "these results have no figure 'fidelity'; it needs fidelity_kl"),
        (["--only", "overview", "--all"], "--all and --only"),
    ],
)
def test_wrong_input_is_told(folder, given, message, capsys):
    (folder / "a_file").touch()
    assert main(["figures", str(folder), *(word.format(folder=folder) for word in given)]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "figures").exists()


def test_without_matplotlib_the_extra_is_named(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw(folder, tmp_path / "drawn") == 2
    assert "pip install 'fairkv-eval[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()


def test_full_cache_alone_is_nothing_to_draw(tmp_path, capsys):
    synthetic_results.write(tmp_path)
    synthetic_results.write(tmp_path, press="tova", number=1, fairkv={"decode_budget": 64})
    assert main(["figures", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "nothing to draw" in printed.err and "bounds the answer as well" in printed.out
    assert not (tmp_path / "figures").exists()
