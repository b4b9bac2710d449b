"""The ``fairkv`` command: what it prints for whom, and that every mistake is one line that names what was meant."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from fairkv_eval.cli import main
from fairkv_eval.commands.presses import describe
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import built_in_presses, listed_press, load_press
from fairkv_eval.files import resource_dir

NAMES = list(dict.fromkeys(press.name for press in built_in_presses().values()))
LONGEST = max((press.summary for press in built_in_presses().values()), key=len)
KEYS = ["press", "aliases", "summary", "observes", "paper", "base"]
KEYS += ["parameters", "cost", "decode_budget", "contiguous", "excludes", "sha256"]

MINE = """
press: mine
summary: "[bold]small[/bold] keys :smile: of a rule with a summary that is rather longer than a narrow terminal is wide"
score: !function rules_of_mine.rule
parameters:
  part: {default: 0.5, max: 1, help: how much}
  size: {default: 3, min: 1, odd: true}
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "rules_of_mine.py").write_text(
        "def rule(layer, span, *, part, size):\n    return -layer.k[:, span.start : span.stop].norm(dim=-1)\n"
    )
    (tmp_path / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return "mine.yaml"


def piped(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert not printed.err
    return printed.out


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *argv: str) -> str:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(argv) == 0
    return terminal.getvalue()


def press(name: str) -> Press:
    found = listed_press(name)
    assert found is not None
    return found


def written(default: object) -> str:
    """A default as an argument is typed."""
    return str(default).lower() if isinstance(default, bool) else str(default)


class TestInAPipe:
    def test_one_line_a_press_and_nothing_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        header, *rows = piped(capsys, "presses").splitlines()
        assert header.split() == ["press", "keeps", "parameters", "observes", "cost", "not", "with", "paper"]
        assert [row.split()[0].rstrip(",") for row in rows] == NAMES
        for name, row in zip(NAMES, rows, strict=True):
            rule = press(name)
            own = rule.parameters if rule.base is None else rule.parameters.keys() - rule.base.parameters.keys()
            defaults = [f"{key}={written(rule.parameters[key].default)}" for key in own]
            assert all(alias in row for alias in rule.aliases) and rule.summary in row and rule.observes in row
            assert all(text in row for text in defaults)
            assert rule.paper.rpartition("/")[2] in row
            base = rule.base.name if rule.base else rule.default_base
            assert (f"base={base}" in row) if base else ("base=" not in row)

    @pytest.mark.parametrize("variable", ["COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"])
    def test_whatever_the_environment_says(
        self, variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, {"COLUMNS": "40"}.get(variable, "1"))
        text = piped(capsys, "presses")
        assert "\x1b" not in text and LONGEST in text and len(text.splitlines()) == len(NAMES) + 1
        assert not any(line.endswith(" ") for line in text.splitlines())

    def test_named_ones_in_full(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = piped(capsys, "presses", "snap", "adakv")
        snapkv, adakv = text.split("\n\n")
        rule = press("snapkv")
        assert snapkv.startswith("snapkv (snap)\n  keeps ") and adakv.startswith("adakv\n")
        assert f"kernel=5 (odd, from 1): {rule.parameters['kernel'].help}\n" in snapkv + "\n"
        assert rule.paper in snapkv and rule.summary in snapkv
        assert "base           snapkv, unless base=<press> names another" in adakv
        assert "safeguard=0.2 (from 0 to 1): " in adakv and "window=64 (from 1): " in adakv and "(snapkv's)" in adakv

    def test_a_file_of_ones_own(self, mine: str, capsys: pytest.CaptureFixture[str]) -> None:
        text = piped(capsys, "presses", mine)
        assert "keeps          [bold]small[/bold] keys :smile: of a rule" in text
        assert "parameter      part=0.5 (to 1): how much\n" in text and "size=3 (odd, from 1)\n" in text
        assert "paper          -" in text

    def test_a_reader_who_has_gone(self) -> None:
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "fairkv_eval.cli", "presses", "--json"]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert done.returncode == 1 and not done.stderr


class TestOnATerminal:
    def test_a_wide_one_gets_a_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = on_terminal(monkeypatch, 150, "presses").splitlines()
        assert "\x1b[1mpress" in lines[0]
        assert max(map(len, lines[2:])) <= 150
        text = " ".join(" ".join(lines).split())
        assert all(name in text for name in NAMES) and "…" not in text

    @pytest.mark.parametrize("columns", [40, 60, 100])
    def test_a_narrow_one_gets_every_word(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        text = on_terminal(monkeypatch, columns, "presses").replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert max(map(len, text.splitlines())) <= columns
        words = " ".join(text.split())
        assert "…" not in words and all(press(name).summary in words for name in NAMES)
        assert all(press(name).paper in words for name in NAMES) or columns < 60


class TestJson:
    def test_its_keys_are_these(self, capsys: pytest.CaptureFixture[str]) -> None:
        entries = json.loads(piped(capsys, "presses", "--json"))
        assert [entry["press"] for entry in entries] == NAMES
        assert all(list(entry) == KEYS for entry in entries)
        parameters = [parameter for entry in entries for parameter in entry["parameters"]]
        keys = ["name", "of", "default", "min", "max", "odd", "choices", "path", "help"]
        assert all(list(p) == keys for p in parameters)

    def test_of_a_wrapper(self, capsys: pytest.CaptureFixture[str]) -> None:
        (entry,) = json.loads(piped(capsys, "presses", "--json", "adakv"))
        assert entry["base"] == "snapkv" and entry["paper"].endswith("2407.11550")
        assert [(p["name"], p["of"]) for p in entry["parameters"]] == [
            ("safeguard", "adakv"),
            ("window", "snapkv"),
            ("kernel", "snapkv"),
        ]
        assert entry["parameters"][0] | {"help": ""} == {
            **{"name": "safeguard", "of": "adakv", "default": 0.2, "min": 0, "max": 1, "odd": False, "help": ""},
            **{"choices": [], "path": False},
        }
        assert entry["sha256"] == press("adakv").sha256

    def test_of_a_file(self, mine: str, capsys: pytest.CaptureFixture[str]) -> None:
        (entry,) = json.loads(piped(capsys, "presses", mine, "--json"))
        part, size = entry["parameters"]
        assert (part["default"], part["min"], part["max"], part["odd"]) == (0.5, None, 1, False)
        assert (size["default"], size["min"], size["max"], size["odd"]) == (3, 1, None, True)
        assert entry["paper"] is None and entry["base"] is None

    def test_of_texts_and_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "texts.yaml").write_text(
            "press: texts\nscore: !function rules.rule\nparameters:\n"
            "  variant: {default: plain, choices: [plain, plus]}\n  table: {default: '', path: true}\n"
        )
        (tmp_path / "rules.py").write_text("def rule(layer, span, *, variant, table):\n    ...\n")
        path = str(tmp_path / "texts.yaml")
        variant, table = json.loads(piped(capsys, "presses", path, "--json"))[0]["parameters"]
        assert variant["choices"] == ["plain", "plus"] and table["path"] is True
        text = piped(capsys, "presses", path)
        assert "variant=plain (plain or plus)" in text and "table= (a file)" in text

    @pytest.mark.parametrize("name", NAMES)
    def test_where_it_can_be_used_is_what_a_policy_accepts(self, name: str) -> None:
        rule = press(name)
        entry = describe(rule)
        for key, policy in (("decode_budget", {"decode_budget": 8}), ("contiguous", {"positions": "contiguous"})):
            if entry[key]:
                Policy(rule, rule.configure({}), 0.5, **policy)
            elif name == "threshold":  # it has no base here
                assert not Policy(rule, rule.configure({})).division.uniform
            else:
                with pytest.raises(UsageError):
                    Policy(rule, rule.configure({}), 0.5, **policy)

    def test_some_can_and_some_cannot(self) -> None:
        entries = {name: describe(press(name)) for name in ("tova", "snapkv", "pyramidkv")}
        assert [e["decode_budget"] for e in entries.values()] == [True, False, False]
        assert [e["contiguous"] for e in entries.values()] == [True, True, False]

    @pytest.mark.parametrize("name", NAMES)
    def test_what_a_press_excludes_is_refused_by_name(self, name: str) -> None:
        """And of all that a press could exclude, nothing else is refused."""
        entry, rule = describe(press(name)), press(name)
        others = {"by_layer": "0.5"} if name == "layer_ratios" else {}
        base = {"base": rule.base.name if rule.base else "knorm"} if entry["base"] else {}
        typed = {
            "ratio": {"ratio": 0.5},
            "budget": {"budget": 9},
            "budget_bytes": {"budget_bytes": 0.5},
            "decode_budget": {"decode_budget": 9},
            "merge=cam": {"decode_budget": 9, "merge": "cam"},
            "positions=contiguous": {"positions": "contiguous"},
            "any wrapper": {"press": "adakv", "base": name},
            "press=blockwise": {"press": "blockwise", "base": name},
        }
        if "any wrapper" in entry["excludes"]:
            del typed["press=blockwise"]
        refused = []
        for thing, arguments in typed.items():
            try:
                Policy.of({"press": name, **base, **others, **arguments})
            except UsageError as error:
                assert name in str(error) or (thing == "any wrapper" and "base" in str(error)), thing
                refused.append(thing)
        assert refused == entry["excludes"]

    @pytest.mark.parametrize("name", NAMES)
    def test_costs_are_declared_or_those_of_a_replay_or_a_base(self, name: str) -> None:
        entry, rule = describe(press(name)), press(name)
        assert entry["cost"] in ("free", "O(n)", "O(n²)", "second pass") or (name == "threshold" and not rule.base)
        assert (entry["cost"] == "second pass") == (rule.replay is not None)
        if rule.base and not rule.cost:
            assert entry["cost"] == rule.base.cost == "free"
        assert describe(load_press("criticalkv", "h2o"))["cost"] == "O(n²)"  # the dearer of the two


class TestMarkdown:
    README = (resource_dir("presses") / "README.md").read_text(encoding="utf-8")

    def test_the_table_of_the_readme_is_what_it_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"\n\n{piped(capsys, 'presses', '--markdown')}\n" in self.README

    def test_the_readme_lists_them(self) -> None:
        rows = {
            row.split("`")[1]: row for row in self.README.partition("\n## ")[0].splitlines() if row.startswith("| `")
        }
        assert list(rows) == NAMES
        for name, row in rows.items():
            rule = press(name)  # a wrapper's row leaves out the parameters of what it wraps
            own = rule.parameters if rule.base is None else rule.parameters.keys() - rule.base.parameters.keys()
            base = rule.base.name if rule.base else rule.default_base
            settings = [f"base={base}"] if base else []
            settings += [f"{key}={written(value.default)}" for key, value in rule.parameters.items() if key in own]
            assert re.findall(r"`([^`]+)`", row) == [name, *rule.aliases, *settings]
            assert f"| {rule.summary} |" in row and f"| {rule.observes} |" in row and rule.paper in row

    def test_of_a_file_with_little_in_it(self, mine: str, capsys: pytest.CaptureFixture[str]) -> None:
        *_, row = piped(capsys, "presses", "--markdown", mine).splitlines()
        assert row.startswith("| `mine` | – | [bold]small") and row.endswith(
            "| `part=0.5`, `size=3` | – | – | decode_budget, merge=cam | – |"
        )


class TestMistakes:
    @pytest.mark.parametrize(
        "argv, message",
        [
            (["preses"], "unknown command 'preses'. Did you mean 'presses'?"),
            (["presses", "tovaa"], "unknown press 'tovaa'. Did you mean 'tova'? Allowed: adakv, "),
            (["presses", "tova", "none"], "'none' is the plain model"),
            (["presses", "nowhere.yaml"], "press file 'nowhere.yaml' does not exist"),
            (["presses", "--jsn"], "unknown option of 'fairkv presses' '--jsn'. Did you mean '--json'?"),
            (["--versoin"], "unknown option of 'fairkv' '--versoin'. Did you mean '--version'?"),
            (["presses", "--json=3"], "--json"),
            (["presses", "--json", "--markdown"], "--markdown: not allowed with argument --json"),
            (["--json", "presses"], "unknown option of 'fairkv' '--json'"),
        ],
    )
    def test_one_line_and_status_two(self, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("fairkv: ") and message in err and err.count("\n") == 1

    def test_a_file_that_is_no_yaml(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("press: [mine\nscore: x")
        assert main(["presses", str(path)]) == 2
        err = capsys.readouterr().err
        assert "cannot be read" in err and err.count("\n") == 1


class TestTheCommand:
    def test_is_the_one_that_gets_installed(self) -> None:
        tomllib = pytest.importorskip("tomllib")
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        module, _, function = project["scripts"]["fairkv"].partition(":")
        assert getattr(import_module(module), function) is main

    @pytest.mark.parametrize("argv", [[], ["--help"], ["presses", "--help"], ["--version"]])
    def test_help_is_not_a_mistake(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as done:
            main(argv)
        out, err = capsys.readouterr()
        assert done.value.code == 0 and "fairkv" in out and not err

    def test_help_and_mistakes_load_no_torch(self) -> None:
        script = """
import sys
from fairkv_eval.cli import main
assert main(["preses"]) == 2
try:
    main(["presses", "--help"])
except SystemExit:
    pass
heavy = {"torch", "transformers", "lm_eval", "rich", "yaml"} & sys.modules.keys()
assert not heavy, heavy
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
