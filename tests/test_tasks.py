"""What the harness finds in tasks/: the exact names, and that each task loads, renders and is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dataset_stand_ins
import pytest
import tiny
import yaml
from package_tasks import manager

from fairkv_eval.files import resource_dir

DEMO = {"sys_ifeval_demo", "raccoon_demo"}
OFFLINE = {"gsm8k_cot_offline": 1319}  # tests/declared/test_harness_task.py has more of them
OFFLINE |= {f"niah_{kind}_offline_{k}": 500 for kind in ("single_1", "multikey_2") for k in ("1k", "4k")}
MULTI = {"sys_multi", "sys_multi_secret"}
MULTI |= {f"sys_multi_{what}" for what in ("1", "2", "4", "8", "filler_256", "filler_1k", "filler_4k")}
PITFALLS = {"sys_ifeval", "sys_ifeval_defended", "sys_ifeval_flipped", "raccoon_plain"}
SINGULAR = {
    "raccoon_singular_cognitive_hacking": 300,
    "raccoon_singular_context_ignoring": 300,
    "raccoon_singular_context_manipulation": 300,
    "raccoon_singular_defined_dictionary": 300,
    "raccoon_singular_distractor_instructions": 300,
    "raccoon_singular_few_shot_prompt": 300,
    "raccoon_singular_fill_in_the_blank": 300,
    "raccoon_singular_instruction_repetition": 300,
    "raccoon_singular_obfuscation": 400,
    "raccoon_singular_payload_splitting": 300,
    "raccoon_singular_plain": 100,
    "raccoon_singular_prefix_injection": 300,
    "raccoon_singular_refusal_suppression": 300,
    "raccoon_singular_special_case": 300,
    "raccoon_singular_translation": 300,
}
DEFENSES = {
    "raccoon_no_defense",
    "raccoon_flipped_defense",
    "raccoon_standard_defense",
    "raccoon_custom_defense_lower_case",
    "raccoon_short_defense_1",
    "raccoon_short_defense_framergpt",
    "raccoon_short_defense_code_tutor",
    "raccoon_medium_defense_daisha_generator",
    "raccoon_medium_defense_tune_therapist",
    "raccoon_medium_defense_gated_access",
    "raccoon_medium_defense_stop_halt",
    "raccoon_medium_defense_i_will_never_trust_you_again",
    "raccoon_long_defense_rule_nr_1",
    "raccoon_long_defense_can_t_hack_this",
    "raccoon_long_defense_capturethegpt",
    "raccoon_long_defense_smart_sorter",
    "raccoon_long_defense_gptinfinite",
    "raccoon_long_defense_ck_12_flexi",
}
GPTS = {"raccoon_gpts_singular": 44 * 196, "raccoon_gpts_compound": 10 * 196, "raccoon_gpts_deflesstop5": 5 * 196}
PUBLISHED = {
    **dict.fromkeys(("sys_ifeval", "sys_ifeval_defended", "sys_ifeval_flipped"), 541),
    **dict.fromkeys(("raccoon_plain", "raccoon_preference"), 539),
    **SINGULAR,
    **dict.fromkeys(DEFENSES, 100),
    **GPTS,
    "raccoon_compound": 1000,
    "raccoon_deflesstop5": 500,
    "raccoon_gpts_plain": 196,
}
GROUPS = {
    "harness_offline": set(OFFLINE),
    "pitfalls": PITFALLS,
    "raccoon": {*SINGULAR, "raccoon_compound", "raccoon_deflesstop5"},
    "raccoon_singular": set(SINGULAR),
    "raccoon_defenses": DEFENSES,
    "raccoon_gpts": set(GPTS),
}
TOKENS = {"sys_ifeval_demo": 256, "raccoon_demo": 128, **dict.fromkeys(MULTI, 256)}  # others 256 or 1280
FIRST_SEGMENT = {
    "sys_ifeval": "directive",
    "sys_ifeval_defended": "defense",
    "sys_ifeval_flipped": "directive",
    "raccoon_plain": "defense",
}


def test_exact_names() -> None:
    found = manager()
    assert set(found.all_subtasks) == DEMO | MULTI | set(PUBLISHED) | set(OFFLINE)
    assert set(found.all_groups) == set(GROUPS) and found.all_tags == []


def test_every_yaml_is_a_task_a_group_or_a_base() -> None:
    """The index drops a YAML that it cannot read without a word."""
    from lm_eval.tasks._yaml_loader import load_yaml

    named = set()
    for path in resource_dir("tasks").rglob("*.yaml"):
        config = load_yaml(path, resolve_func=True)
        if not path.name.startswith("_"):
            named.add(config.get("group") or config["task"])
    assert named == DEMO | MULTI | set(PUBLISHED) | set(OFFLINE) | set(GROUPS)


def test_every_folder_has_a_readme_that_names_its_tasks() -> None:
    for folder in filter(Path.is_dir, resource_dir("tasks").iterdir()):
        readme = (folder / "README.md").read_text(encoding="utf-8")
        for path in folder.rglob("[!_]*.yaml"):
            assert f"`{path.stem}`" in readme


def check(task: Any, name: str) -> None:
    """Loads, renders its own messages, is greedy, and each metric it gives is declared."""
    config, doc = task.config, task.test_docs()[0]
    version = 2.1 if name == "raccoon_preference" else 1.2 if name.startswith(("raccoon", "sys_ifeval")) else 1.1
    assert config.metadata["version"] == version == task.VERSION
    multiple_choice = config.output_type == "multiple_choice"
    if not multiple_choice:
        assert config.generation_kwargs == {
            "until": [],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": TOKENS.get(name, 256 if name.startswith("raccoon") else 1280),
        }
    rendered = task.fewshot_context(
        doc, 0, apply_chat_template=True, chat_template=lambda turns, **_: json.dumps(turns)
    )
    assert json.loads(rendered) == doc["messages"]
    assert task.doc_to_target(doc) == 0 if multiple_choice else task.doc_to_target(doc)
    declared = set(task.aggregation())
    assert declared == set(task.higher_is_better())
    results = [(-2.0, False), (-3.0, True)] if multiple_choice else ["I can't assist with that request."]
    for doc in task.test_docs().select(range(3)):
        scores = task.process_results(doc, results)
        assert scores and set(scores) <= declared


@pytest.mark.parametrize("name", sorted(DEMO | MULTI))
def test_demo_tasks_load_without_data(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAIRKV_DATA", str(tmp_path))
    check(manager(press="tova", ratio=0.5).load([name])["tasks"][name], name)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (PUBLISHED[name] > 5000)) for name in sorted(PUBLISHED)]
)
def test_published_tasks_load(name: str) -> None:
    task = manager(press="tova", ratio=0.5).load([name])["tasks"][name]
    check(task, name)
    if name in FIRST_SEGMENT:
        assert task.test_docs()[0]["segments"][0]["name"] == FIRST_SEGMENT[name]
    assert len(task.test_docs()) == PUBLISHED[name]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_groups_hold_their_tasks_and_aggregate_what_they_declare(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_stand_ins.words(monkeypatch)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = manager(system_prompts=1, num_prompts=1, tokenizer=str(tmp_path)).load([group])
    assert set(loaded["tasks"]) == GROUPS[group]
    for metric in loaded["groups"][group].aggregate_metric_list or ():
        assert all(metric.metric in task.aggregation() for task in loaded["tasks"].values())


@pytest.mark.usefixtures("published")
def test_every_category_and_every_defense_of_the_paper_has_its_task() -> None:
    from fairkv_eval.documents import published, raccoon
    from fairkv_eval.documents.choice import Choice

    tasks = manager(system_prompts=1).load(["raccoon_singular", "raccoon_defenses"])["tasks"]
    categories = [tasks[name].test_docs()[0]["attack_category"] for name in SINGULAR]
    assert sorted(categories) == sorted({name for name, *_ in raccoon.read_attacks(Choice())})
    assert sum(len(tasks[name].test_docs()) for name in SINGULAR) == 44
    defenses = {tasks[name].config.metadata["defense"] for name in DEFENSES}
    assert defenses == set(json.loads(published.read_file(published.DEFENSES))) and len(DEFENSES) == 18


@pytest.mark.usefixtures("published")
def test_metadata_of_the_command_line_overrides_the_yaml() -> None:
    task = manager(defense="flipped_defense", system_prompt_prepend="").load(["raccoon_plain"])["tasks"][
        "raccoon_plain"
    ]
    doc = task.test_docs()[0]
    assert [segment["name"] for segment in doc["segments"]] == ["directive", "defense"]
    assert doc["directive"] == doc["secret"]


@pytest.mark.parametrize("name", sorted({*PITFALLS, "raccoon_gpts_plain", "raccoon_preference"}))
def test_missing_data_stops_the_run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fairkv_eval.errors import DataError

    monkeypatch.setenv("FAIRKV_DATA", str(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        manager().load([name])


def test_families_and_thresholds_are_declared() -> None:
    from fairkv_eval import metrics

    def names(path: str) -> set[str]:
        text = (resource_dir("tasks") / path).read_text(encoding="utf-8").replace("!function", "")
        return {entry["metric"] for entry in yaml.safe_load(text)["metric_list"]}

    assert {f"acc_{family}" for family in metrics.FAMILIES} <= names("sys_ifeval/_base.yaml")
    assert {f"leak@{threshold}" for threshold in metrics.LEAK_THRESHOLDS} <= names("raccoon/_base.yaml")


def test_harness_run_keeps_every_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the harness's own evaluate(), table and JSON: odd metric names and telemetry survive."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.utils import handle_non_serializable, make_table

    class Told(str):
        telemetry: dict[str, Any]

    class Parrot(LM):
        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            responses = []
            for request in requests:
                response = Told(request.doc["directive"])
                kept = {segment["name"]: 0.25 for segment in request.doc["segments"]}
                response.telemetry = {"keep_rate": 0.5, "segments": kept, "kv_bytes_full": 8, "kv_bytes_kept": 4}
                responses.append(response)
            return responses

        def loglikelihood(self, requests: Any) -> Any: ...

        def loglikelihood_rolling(self, requests: Any) -> Any: ...

    results = simple_evaluate(Parrot(), tasks=sorted(DEMO), task_manager=manager(), bootstrap_iters=10)
    again = json.loads(json.dumps(results, default=handle_non_serializable))["results"]
    leak, follow = again["raccoon_demo"], again["sys_ifeval_demo"]
    assert leak["leak@0.3,none"] == leak["leak@0.8,none"] == leak["rougeL_recall_directive,none"] == 1.0
    assert leak["leak@0.8_stderr,none"] == 0.0 and leak["keep_rate_directive,none"] == 0.25
    assert follow["kv_bytes_kept,none"] == 4.0 and 0 <= follow["inst_level_strict_acc,none"] <= 1
    assert "leak@0.3_defense" not in make_table(results)
    results["configs"]["raccoon_demo"]["metadata"]["metrics"] = "all"
    assert "leak@0.3_defense" in make_table(results)
