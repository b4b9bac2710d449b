"""Published results: what is written is read back, and a damaged or foreign part is named."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
import synthetic_results
import synthetic_sweep
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.analysis.two_runs import compare
from fairkv_eval.errors import UsageError
from fairkv_eval.files import sha256_of
from fairkv_eval.results.publish import publish
from fairkv_eval.results.published_results import FILE, PublishedResult, read_results, write_results
from fairkv_eval.results.published_samples import PublishedTable, write_table
from fairkv_eval.results.reader import read

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(st.booleans(), st.integers(), st.sampled_from([2**53 + 1, -(10**400)]), st.floats(allow_nan=False))
values = st.one_of(texts, numbers, st.lists(st.booleans(), max_size=3), st.lists(numbers, max_size=3))
lines = st.lists(st.dictionaries(st.sampled_from(["acc", "rouge", "filter", "doc_id"]), values, min_size=1), max_size=4)
json_values = st.recursive(
    st.one_of(st.none(), texts, numbers),
    lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(texts, inside, max_size=3)),
    max_leaves=12,
)


def content_of(file: Path) -> dict:
    """The JSON of published results."""
    return json.loads(gzip.decompress(file.read_bytes()))


@given(st.dictionaries(st.integers(0, 5), lines, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_table_gives_back_the_lines_of_each_result(tmp_path_factory: pytest.TempPathFactory, by_result) -> None:
    path = tmp_path_factory.mktemp("table") / "task.parquet"
    table = PublishedTable(write_table(path, by_result), sha256_of(path))
    for number, of_result in by_result.items():
        assert table.lines(number) == of_result


@given(st.lists(st.dictionaries(texts, json_values, max_size=3), min_size=1, max_size=4), json_values)
@settings(max_examples=100, deadline=None)
def test_results_come_back_with_their_shared_parts(tmp_path_factory, contents, part) -> None:
    output = tmp_path_factory.mktemp("results")
    contents = [{**content, "part": [part, {"long enough to be shared": "x" * 60}]} for content in contents]
    results = [PublishedResult(Path(f"m/{i}/results.json"), content) for i, content in enumerate(contents)]
    file = write_results(output, results)
    back = read_results(file, content_of(file))
    assert [json.dumps(result.content) for result in back] == [json.dumps(content) for content in contents]
    assert [result.path for result in back] == [output / result.path for result in results]
    back[0].content["part"][1].clear()  # parts are copies
    assert all(result.content["part"][1] for result in back[1:])


def test_parts_that_results_share_are_held_once(tmp_path: Path) -> None:
    part = {"text": "y" * 5000}
    results = [PublishedResult(Path(f"m/{i}/results.json"), {"config": part, "i": i}) for i in range(20)]
    assert write_results(tmp_path, results).stat().st_size < 8000


def test_a_result_that_looks_like_a_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be published"):
        write_results(tmp_path, [PublishedResult(Path("results.json"), {"a": {"$shared": 0}})])
    assert not (tmp_path / FILE).exists()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    synthetic_sweep.write(tmp_path / "own" / "a", presses=("tova", "snapkv"), tasks=synthetic_sweep.TASKS[:2], n=12)
    publish([tmp_path / "own"], tmp_path / "out")
    return tmp_path / "out"


def test_a_published_result_is_named_by_the_path_it_had(sweep: Path) -> None:
    source = sweep.parent / "own"
    first, second = sorted(source.rglob("results_*.json"))[:2]
    alone = read(sweep / first.relative_to(source)).records
    assert [r.samples() for r in alone] == [r.samples() for r in read(first).records]
    folder = first.parent.relative_to(source)
    assert len(read(sweep / folder).records) == len(read(source / folder).records)
    by_file, by_name = compare(first, second), compare(*(sweep / p.relative_to(source) for p in (first, second)))
    assert str(by_file.rows) == str(by_name.rows) and by_file.rows  # as text, since no number equals NaN
    with pytest.raises(UsageError, match="no such file or folder"):
        read(sweep.parent / "nowhere" / "results_x.json")
    with pytest.raises(UsageError, match="results; name one"):
        compare(sweep / FILE, first)


def test_results_that_an_earlier_version_published_uncompressed_are_read(sweep: Path) -> None:
    before = read(sweep).records
    (sweep / "cells.json").write_bytes(gzip.decompress((sweep / FILE).read_bytes()))
    (sweep / FILE).unlink()
    assert [r.metrics for r in read(sweep).records] == [r.metrics for r in before]
    name = before[0].path
    assert [r.samples() for r in read(name).records] == [before[0].samples()]


@pytest.mark.parametrize("form", [FILE, "cells.json"])
def test_published_results_are_not_overwritten_nor_doubled(sweep: Path, form: str) -> None:
    if form != FILE:
        (sweep / form).write_bytes(gzip.decompress((sweep / FILE).read_bytes()))
        (sweep / FILE).unlink()
    with pytest.raises(UsageError, match=re.escape(str(sweep / form))):
        publish([sweep.parent / "own"], sweep)
    assert [path.name for path in sweep.glob("cells*")] == [form]


def test_published_results_are_published_again_unchanged(sweep: Path, tmp_path: Path) -> None:
    publish([sweep], tmp_path / "again")
    for file in (path for path in sweep.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / file.relative_to(sweep)).read_bytes() == file.read_bytes(), file.name


def test_damaged_samples_are_named_and_results_stay(sweep: Path) -> None:
    table = next(sweep.rglob("*.parquet"))
    whole = table.read_bytes()
    for damaged in (whole[:-20], whole + b"x", b""):
        table.write_bytes(damaged)
        records = [r for r in read(sweep).records if r.task == table.stem]
        with pytest.raises(UsageError, match=table.name):
            records[0].samples()
    table.unlink()
    with pytest.raises(UsageError, match=table.name):
        next(r for r in read(sweep).records if r.task == table.stem).samples()


def test_samples_of_another_result_are_refused(sweep: Path) -> None:
    content = content_of(sweep / FILE)
    for entry in content["results"]:
        entry["result"] = {**entry["result"], "task_hashes": dict.fromkeys(synthetic_sweep.TASKS, "0" * 64)}
    (sweep / FILE).write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(UsageError, match="not the samples of this result"):
        read(sweep).records[0].samples()


@pytest.mark.parametrize("name", ["../outside.parquet", "/etc/passwd"])
def test_nothing_outside_the_folder_is_read(sweep: Path, name: str) -> None:
    content = content_of(sweep / FILE)
    content["samples"] = {name: "0" * 64}
    (sweep / FILE).write_bytes(gzip.compress(json.dumps(content).encode()))
    records, problems = read(sweep)
    assert not records and "outside of their folder" in problems[0].reason


def test_damaged_results_are_one_problem(sweep: Path) -> None:
    whole = (sweep / FILE).read_bytes()
    text = gzip.decompress(whole)
    texts = (text[: len(text) // 2], text.replace(b'"shared"', b'"other"'), text.replace(b'"file"', b'"path"'))
    for damaged in (*map(gzip.compress, texts), whole[: len(whole) // 2], whole[:-9] + b"x" + whole[-8:], text, b""):
        (sweep / FILE).write_bytes(damaged)
        records, problems = read(sweep)
        assert not records and [problem.path.name for problem in problems] == [FILE]


def test_a_result_without_samples(tmp_path: Path) -> None:
    synthetic_results.write(tmp_path / "own", samples=False)
    publish([tmp_path / "own"], tmp_path / "out")
    (record,) = read(tmp_path / "out").records
    assert record.sample_source is None and record.lines() == []
