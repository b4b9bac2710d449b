"""Files that are damaged, hostile, or in the way of others."""

from __future__ import annotations

from bad_input import Case, command

DEEP = "[" * 100_000
RESULT = (
    '{"results": {"a": {}}, "configs": {"a": {}}, "config": {"model": "hf"}, "n-samples": {"a": %s}, "versions": {}}'
)


def leaderboard(name: str, content: str, *words: str) -> Case:
    return command("leaderboard", "{folder}", files={name: content}, words=(name, *words))


CASES = [
    leaderboard("deep.json", DEEP, "nested too deep"),
    leaderboard("half.json", '{"results": {"a": {"acc,none": 1', "not JSON, or truncated"),
    leaderboard("list.json", "[]", "holds no object"),
    leaderboard("digits.json", '{"results": ' + "9" * 5000 + "}", "not a result of the harness"),
    leaderboard("counts.json", RESULT % '{"effective": "many", "original": 1}', "its n is str 'many'"),
    leaderboard("minus.json", RESULT % '{"effective": -1, "original": 1}', "its number of documents is -1"),
    leaderboard("surrogate.json", '{"results": "\\ud800"}', "half a surrogate pair"),
    *(
        command(
            "presses",
            "{folder}/mine.yaml",
            files={"mine.yaml": "press: mine\nscore: !function broken.score\n", "broken.py": code},
            words=("mine.yaml", "its code raises", error),
        )
        for code, error in (
            ("raise SystemExit(3)", "SystemExit(3)"),
            ("1 / 0", "ZeroDivisionError"),
            ("raise KeyError('a')", "KeyError('a')"),
        )
    ),
    command("publish", "{folder}/a.json", "--output_path", "{folder}/out", files={"a.json": "[]"}, words=("a.json",)),
    command("figures", "{folder}/a.json", files={"a.json": DEEP}, words=("a.json", "nested too deep")),
    command("findings", "{folder}/a.json", files={"a.json": DEEP}, words=("a.json", "nested too deep")),
    command("recommend", "{folder}/a.json", files={"a.json": DEEP}, words=("a.json", "nested too deep")),
    command(
        "compare", "{folder}/a.json", "{folder}/a.json", files={"a.json": DEEP}, words=("a.json", "nested too deep")
    ),
    command(
        "leaderboard",
        "{folder}/a.json",
        "--output_path",
        "{folder}/a.json",
        files={"a.json": "{}"},
        words=("cannot write",),
    ),
]
