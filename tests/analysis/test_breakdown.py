"""`fairkv breakdown`: figures counted by hand, standard errors by their formula, and every mistake one line."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.analysis.breakdown import GroupMean, estimate, group_means, read, wilson
from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError

# (instructions, which of them were followed, words of the system prompt, leaked)
DOCS: list[tuple[list[str], list[bool], int, float]] = [
    (["keywords:existence"], [True], 10, 1.0),
    (["keywords:frequency", "punctuation:no_comma"], [True, False], 20, 0.0),
    (["keywords:existence", "keywords:frequency", "punctuation:no_comma"], [False, True, True], 30, 0.0),
    (["punctuation:no_comma"], [False], 40, 1.0),
    ([], [], 50, 0.0),
]


def sample(doc_id: int, ids: list[str], followed: list[bool], words: int, leaked: float) -> dict[str, Any]:
    metrics = {"inst_level_strict_acc": followed, "prompt_level_strict_acc": all(followed), "leak@0.3": leaked}
    doc = {"instruction_id_list": ids, "messages": [{"role": "system", "content": "word " * words}]}
    return {"doc_id": doc_id, "doc": doc, "filter": "none", "metrics": list(metrics), **metrics}


def write(folder: Path, docs: list[Any] = DOCS) -> Path:
    path = folder / "samples_tiny_2026.jsonl"
    path.write_text("".join(json.dumps(sample(i, *doc)) + "\n" for i, doc in enumerate(docs)))
    return path


def means_by_group(folder: Path, **arguments: Any) -> dict[tuple[str, str, str], GroupMean]:
    return {(row.by, row.group, row.metric): row for row in group_means(read(write(folder)), **arguments)}


def test_every_table_by_hand(tmp_path: Path) -> None:
    rows = means_by_group(tmp_path, bins=2)

    def values(by: str, metric: str) -> dict[str, tuple[float, int, int]]:
        own = [row for (kind, _, name), row in rows.items() if (kind, name) == (by, metric)]
        return {row.group: (round(row.value, 6), row.n, row.documents) for row in own}

    assert values("class", "inst_level_strict_acc") == {"keywords": (0.75, 4, 3), "punctuation": (0.333333, 3, 3)}
    assert values("class", "leak@0.3") == {"keywords": (0.333333, 3, 3), "punctuation": (0.333333, 3, 3)}
    assert values("id", "inst_level_strict_acc")["keywords:existence"] == (0.5, 2, 2)
    assert values("pair", "both") == {"keywords + keywords": (0.0, 1, 1), "keywords + punctuation": (0.333333, 3, 2)}
    assert values("pair", "first")["keywords + punctuation"] == (0.666667, 3, 2)
    assert values("pair", "second")["keywords + punctuation"] == (0.666667, 3, 2)
    assert values("number", "prompt_level_strict_acc") == {"none": (1, 1, 1), "single": (0.5, 2, 2), "multi": (0, 2, 2)}
    assert values("number", "inst_level_strict_acc") == {"single": (0.5, 2, 2), "multi": (0.6, 5, 2)}
    assert values("length", "leak@0.3") == {"10–30 words": (0.333333, 3, 3), "40–50 words": (0.5, 2, 2)}
    assert values("length", "inst_level_strict_acc") == {"10–30 words": (0.666667, 6, 3), "40–50 words": (0.0, 1, 1)}


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=60)
def test_the_error_is_that_of_clusters(given: list[tuple[int, bool]]) -> None:
    documents, values = [d for d, _ in given], [float(v) for _, v in given]
    value, error = estimate(values, documents)
    assert value == pytest.approx(sum(values) / len(values))
    clusters = set(documents)
    if len(clusters) == 1:
        assert error is None
        return
    sums = [sum(v - value for d, v in zip(documents, values, strict=True) if d == cluster) for cluster in clusters]
    expected = math.sqrt(len(clusters) / (len(clusters) - 1) * sum(s * s for s in sums)) / len(values)
    assert error == pytest.approx(expected, abs=1e-9)


def test_one_value_a_document_has_the_usual_error_and_wilsons_interval(tmp_path: Path) -> None:
    row = means_by_group(tmp_path, by=["number"])["number", "single", "leak@0.3"]
    assert (row.value, row.stderr) == (1.0, 0.0) and row.high == pytest.approx(1)
    assert row.low == pytest.approx(1 / (1 + 1.959964**2 / 2), abs=1e-4)
    value, error = estimate([0, 1, 1, 0.5], list("abcd"))
    assert error == pytest.approx(math.sqrt(sum((x - value) ** 2 for x in (0, 1, 1, 0.5)) / 3 / 4))


# What statsmodels 0.15.0 gives: proportion_confint(share * n, n, method="wilson"), and OLS with clusters.
WILSON = [
    (0.0, 5, 0.0, 0.43448246478317487),
    (1.0, 5, 0.5655175352168252, 1.0),
    (0.5, 2, 0.09453120573423068, 0.9054687942657693),
    (0.1, 541, 0.07747250430374399, 0.1281679751546422),
    (0.6666666666666666, 3, 0.2076596008020477, 0.9385080552796037),
    (0.7321, 37, 0.5727042572960958, 0.8478340999502748),
]
CLUSTERS = [
    ([0, 1, 1, 0], [0, 1, 0, 0], 0.25),
    ([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 3, 0, 1, 4, 2, 0, 3, 3, 4, 0], 0.07030714142818267),
]


@pytest.mark.parametrize(("share", "n", "low", "high"), WILSON)
def test_wilsons_interval_is_that_of_statsmodels(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == pytest.approx((low, high), rel=1e-13, abs=1e-16)


@pytest.mark.parametrize(("values", "documents", "error"), CLUSTERS)
def test_the_error_of_clusters_is_that_of_statsmodels(values: list[float], documents: list[int], error: float) -> None:
    assert estimate(values, documents)[1] == pytest.approx(error, rel=1e-13)


@pytest.mark.parametrize("messages", ["a text", ["a text"], [{"from": "system", "value": "a b c"}]])
def test_messages_of_another_form_are_no_system_prompt(messages: Any, tmp_path: Path) -> None:
    samples = [sample(i, *doc) for i, doc in enumerate(DOCS[:2])]
    for entry in samples:
        entry["doc"]["messages"] = messages
    path = tmp_path / "samples_other_2026.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in samples))
    assert {row.group for row in group_means(read(path), ["length"])} == {"0 words"}


def test_several_filters_count_once_and_lengths_may_be_tokens(tmp_path: Path) -> None:
    path = write(tmp_path)
    once = group_means(read(path))
    path.write_text(path.read_text() * 2)
    assert group_means(read(path)) == once
    groups = [row.group for row in group_means(read(path, len), ["length"], bins=1, unit="tokens")]
    assert set(groups) == {f"{10 * 5}–{50 * 5} tokens"}
    same = [(["a:b"], [True], 10, 0.0)] * 4
    assert {row.group for row in group_means(read(write(tmp_path, same)), ["length"])} == {"10 words"}


def test_the_command_in_all_its_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    path, table = write(tmp_path), tmp_path / "out.csv"
    assert main(["breakdown", str(path), "--bins", "2", "--csv", str(table)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("samples_tiny_2026.jsonl\n\nby class of instruction\n") and "\x1b" not in out
    assert "keywords + keywords" in out and "0.750 ± " in out and "40–50 words" in out
    assert main(["breakdown", str(path), "--bins", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed) == len(pd.read_csv(table)) and printed[0]["samples"] == path.name
    assert list(printed[0]) == list(pd.read_csv(table).columns)
    assert main(["breakdown", str(path), "--by", "class", "--metrics", "leak@0.3"]) == 0
    out = capsys.readouterr().out
    assert "prompt_level_strict_acc" not in out and "leak@0.3" in out and "length" not in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", path.name]


@pytest.mark.parametrize(
    "text, argv, message",
    [
        ("", [], "samples_tiny_2026.jsonl: holds no samples"),
        ("{", [], "samples_tiny_2026.jsonl: not a samples file of the harness"),
        ('{"doc_id": 1}', [], "samples_tiny_2026.jsonl, line 1: not a sample of the harness (KeyError('doc'))"),
        (None, ["--by", "clas"], "unknown breakdown 'clas'. Did you mean 'class'?"),
        (None, ["--metrics", "leak@0.5"], "unknown metric of the samples 'leak@0.5'. Did you mean 'leak@0.3'?"),
        (None, ["--bins", "0"], "--bins 0 is not allowed"),
        (None, ["--csv", "nowhere/a.csv"], "there is no folder 'nowhere'"),
    ],
)
def test_mistakes(text: str | None, argv: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path)
    if text is not None:
        path.write_text(text)
    assert main(["breakdown", str(path), *argv]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_compressed_samples_are_read_as_plain_ones(tmp_path: Path) -> None:
    path = write(tmp_path)
    packed = tmp_path / "samples_tiny_2026.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert group_means(read(packed)) == group_means(read(path))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"samples_tiny_2026\.jsonl\.gz: not a samples file"):
        read(packed)


def test_published_samples_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "samples_tiny_2026.jsonl"
    path.write_text('{"doc_id": 0, "doc_hash": "x", "metrics": []}\n')
    with pytest.raises(UsageError, match="published without documents"):
        read(path)
