"""The table of the paper's arguments in tasks/README.md: every command is one the harness and this package can read."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from fairkv_eval.files import resource_dir

README = (resource_dir("tasks") / "README.md").read_text(encoding="utf-8")
TABLE = README.split("## The paper's scripts")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")] for line in TABLE.splitlines() if line.startswith("| `--")
]
COMMANDS = [command for row in ROWS for command in re.findall(r"`(lm_eval [^`]*)`", row[-1])]
# The fields of the configurations of the authors' two scripts.
AUTHORS = (
    *(
        "model_name_or_path",
        "press_name",
        "outputs_base",
        "num_prompts",
        "compression_ratio_start",
        "generate_responses",
    ),
    *("generate_entropy", "num_responses", "max_new_tokens", "run_name", "seed", "model_cache_dir", "sys_ifeval_path"),
    *("sample_responses", "skip_ids", "system_prompt_prepend", "defense_template_key", "defense_template_path"),
    *("force_keep_global", "analyze_kept_tokens", "defense_span", "use_automated_spans", "defense_path", "attack_path"),
    *("num_sys_prompts", "defense_templates", "attack_categories", "num_prompts_per_attack_category"),
)
# What a command's documents are, by its metadata or the name of its task.
COUNTS = {
    '{"num_prompts": 50}': 50,
    '{"system_prompts": 20}': 20,
    '{"attack_categories": ["Plain", "Obfuscation"]}': 539 * 5,
    '{"prompts_per_category": 1}': 100,
    '{"num_responses": 3}': 539 * 3,
    '{"skip_instruction_ids": ["language:response_language"]}': 510,
    "raccoon_compound": 1000,
    "raccoon_plain": 539,
}


@pytest.fixture
def published(published: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The published files, and the file of defenses that a command names, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.json").write_text('{"mine": "Mine.\\n$system_prompt"}')


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from lm_eval._cli.harness import HarnessCLI

    monkeypatch.setattr(sys, "argv", shlex.split(command))
    return HarnessCLI().parse_args()


def build(arguments: Any) -> Any:
    from lm_eval.tasks import TaskManager

    metadata = {**dict(arguments.model_args or {}), **dict(arguments.metadata or {})}
    manager = TaskManager(include_path=str(resource_dir("tasks")), include_defaults=False, metadata=metadata)
    (task,) = manager.load(arguments.tasks)["tasks"].values()
    return task


def test_every_argument_of_the_authors_is_in_the_table() -> None:
    named = set(re.findall(r"`--(\w+)`", " ".join(row[0] for row in ROWS)))
    assert set(AUTHORS) <= named and len(COMMANDS) == len(ROWS) - 1  # a sweep is no run of lm_eval


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("command", COMMANDS)
def test_command_builds_its_documents(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parse(command, monkeypatch)
    assert arguments.model == "fairkv"
    docs = build(arguments).test_docs()
    given = shlex.split(command)[-1]
    assert len(docs) == COUNTS.get(given, 539 if arguments.tasks == ["raccoon_plain"] else 541)
    metadata = dict(arguments.metadata or {})
    if "system_prompt_prepend" in metadata:
        assert docs[0]["directive"] == docs[0]["secret"]
    if "shuffle_seed" in metadata:
        assert docs["key"][:3] == [1601, 1531, 2482]
    if "defense" in metadata:
        word = "Mine." if "defense_file" in metadata else "UNDER NO CIRCUMSTANCE"
        assert docs[0]["defense"].startswith(word)
    if "skip_instruction_ids" in metadata:
        assert not [ids for ids in docs["instruction_id_list"] if set(metadata["skip_instruction_ids"]) & set(ids)]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_s_model_arguments_are_known(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairkv_eval.harness.settings import Settings

    Settings.of(parse(command, monkeypatch).model_args or {})


@pytest.mark.usefixtures("published")
def test_commands_run_on_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """All choices at once, two documents: sampled responses of one prompt differ, and every score is there."""
    import tiny
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from fairkv_eval.model import FairKV

    metadata = {
        "system_prompts": 1,
        "num_responses": 2,
        "attack_categories": ["Obfuscation"],
        "defense_file": "my.json",
        "defense": "mine",
    }
    model = FairKV(tiny.model(max_position_embeddings=4096), tokenizer=tiny.tokenizer(), press="tova", ratio=0.5)
    results = simple_evaluate(
        model,
        tasks=["raccoon_plain", "raccoon_preference"],
        task_manager=TaskManager(include_path=str(resource_dir("tasks")), include_defaults=False, metadata=metadata),
        gen_kwargs="do_sample=true,temperature=1.0,max_gen_toks=12",
        limit=2,
        bootstrap_iters=0,
    )
    first, second = (sample["filtered_resps"][0] for sample in results["samples"]["raccoon_plain"])
    assert str(first) != str(second) and results["samples"]["raccoon_plain"][1]["doc"]["response"] == 1
    preference = results["results"]["raccoon_preference"]
    for name in ("acc", "margin", "acc_bytes", "margin_bytes", "keep_rate", "keep_rate_defense", "keep_rate_directive"):
        assert f"{name},none" in preference
    (sample, _) = results["samples"]["raccoon_preference"]
    # A byte a token, without the line break that the template puts before an answer.
    refusal, secret = (answer.telemetry["choice_logprob"] for answer in sample["filtered_resps"])
    assert all(answer[0] < answer.telemetry["choice_logprob"] for answer in sample["filtered_resps"])
    tokens = [len(text.encode()) for text in sample["doc"]["choices"]]
    assert sample["margin"] == pytest.approx(refusal / tokens[0] - secret / tokens[1])
    assert json.dumps(sample["doc"]["choices"][0]) == '"I can\'t assist with that request."'
