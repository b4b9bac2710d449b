"""C++ files compiled on first use: kept, shared only with machines that are alike, refused with a reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fairkv_eval.attention import compiled
from fairkv_eval.errors import UsageError

SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    compiled.library.cache_clear()
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run from now on, but for a compiler's version."""
    seen: list[list[str]] = []
    run = subprocess.run

    def spy(command, **kwargs):
        if command[-1] != "--version":
            seen.append(command)
        return run(command, **kwargs)

    monkeypatch.setattr(subprocess, "run", spy)
    return seen


def kept(source: Path) -> list[str]:
    return sorted(path.name for path in (source.parent / "cache").glob("compiled/*"))


def test_it_is_compiled_once(source: Path, commands: list[list[str]]) -> None:
    assert compiled.library(source).answer() == 42
    assert len(commands) == 2 and len(kept(source)) == 1
    compiled.library.cache_clear()
    assert compiled.library(source).answer() == 42
    assert len(commands) == 2


def test_what_it_depends_on_is_in_its_name(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int, *flags: str) -> int:
        monkeypatch.setattr(compiled, "INSTRUCTIONS", dict.fromkeys(("AVX2", "AVX512", "DEFAULT"), flags))
        source.write_text(SOURCE.replace("42", str(number)))
        compiled.library.cache_clear()
        value: int = compiled.library(source).answer()
        return value

    assert [answer(42), answer(42), answer(43), answer(43, "-DOTHER")] == [42, 42, 43, 43]
    assert len(kept(source)) == 3


def test_a_folder_that_cannot_be_written_costs_a_compilation(source: Path, commands: list[list[str]]) -> None:
    (source.parent / "cache").write_text("a file")
    assert compiled.library(source).answer() == 42
    assert len(commands) == 2


def test_what_is_kept_but_cannot_be_loaded_is_compiled_again(source: Path, commands, monkeypatch) -> None:
    compiled.library(source)
    [name] = kept(source)
    other = source.parent / "other" / "compiled" / name  # the loader remembers the path of the first
    other.parent.mkdir(parents=True)
    other.write_text("of another machine")
    monkeypatch.setenv("FAIRKV_CACHE", str(source.parent / "other"))
    compiled.library.cache_clear()
    assert compiled.library(source).answer() == 42
    assert len(commands) == 4 and other.read_bytes()[:4] == b"\x7fELF"


def test_a_compiler_may_have_arguments(source: Path, commands: list[list[str]], monkeypatch) -> None:
    monkeypatch.setenv("CXX", "env 'g++'")
    assert compiled.library(source).answer() == 42
    assert [command[:2] for command in commands] == [["env", "g++"]] * 2


@pytest.mark.parametrize(
    "compiler, text, message",
    [
        (None, "int answer() { return }", "error: expected primary-expression"),
        (None, "extern int no_such_thing; int *place = &no_such_thing;", "cannot be loaded: .*no_such_thing"),
        ("/no/such/compiler", SOURCE, "/no/such/compiler cannot be run"),
        ("false", SOURCE, "false fails"),
    ],
)
def test_the_reason_is_said(source: Path, monkeypatch, compiler: str | None, text: str, message: str) -> None:
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    source.write_text(text)
    with pytest.raises(UsageError, match=message):
        compiled.library(source)
    assert kept(source) == []


def test_without_a_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="there is no C\\+\\+ compiler"):
        compiled.library(source)
