"""A sweep's cells on W&B and the Hub: what the harness's loggers receive, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_evaluation
from tiny_sweeps import tiny_sweep

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep import loggers
from fairkv_eval.sweep.loggers import check_loggers
from fairkv_eval.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("only_these_tasks")

TWO_CELLS = {"presses": "tova", "fair": False, "tasks": ["say"]}
SPARSE = {**TWO_CELLS, "tasks": ["some"]}  # with metrics that some documents do not have


class Wandb:
    """In place of the harness's WandbLogger: what it receives, run by run."""

    runs: list[dict]
    broken = False

    def __init__(self, arguments: dict, config: dict) -> None:
        self.run_log = {"arguments": arguments, "config": config, "finished": 0}
        self.runs.append(self.run_log)
        self.run = SimpleNamespace(finish=self._finish)

    def _finish(self) -> None:
        self.run_log["finished"] += 1

    def post_init(self, results: dict) -> None:
        self.run_log["results"] = results

    def log_eval_result(self) -> None:
        if self.broken:
            raise OSError("no space left on W&B")

    def log_eval_samples(self, samples: dict) -> None:
        # As the harness's logger reads them: every metric of the task, of every document.
        for task, rows in samples.items():
            for entry in self.run_log["results"]["configs"][task]["metric_list"]:
                assert all(entry["metric"] in sample for sample in rows)
            assert all(sample["arguments"][0][0] and sample["resps"][0][0] for sample in rows)
        self.run_log["samples"] = samples


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> type[Wandb]:
    class Fresh(Wandb):
        runs: list[dict] = []  # noqa: RUF012

    monkeypatch.setattr(loggers, "WandbLogger", Fresh)
    monkeypatch.setattr(loggers, "find_spec", lambda name: name)
    return Fresh


def test_every_cell_is_a_run_of_its_own(task_folder: Path, tmp_path: Path, wandb: type[Wandb]) -> None:
    plain = run_sweep(tiny_sweep(task_folder, tmp_path / "plain", **TWO_CELLS))
    assert not wandb.runs
    wandb_keys = {"wandb_args": "project=kv,name=mine", "wandb_config_args": {"note": 1}}
    logged = run_sweep(tiny_sweep(task_folder, tmp_path / "logged", **TWO_CELLS, **wandb_keys))
    assert [path.name for path in logged] == [path.name for path in plain]  # a logger changes no cell
    assert [run["arguments"] for run in wandb.runs] == [
        {"project": "kv", "name": f"mine say {path.name}", "group": "logged", "job_type": "say"} for path in logged
    ]
    for run, path in zip(wandb.runs, logged, strict=True):
        (results,) = path.glob("results_*.json")
        assert run["finished"] == 1 and run["config"] == {"note": 1}
        assert run["results"]["results"] == json.loads(results.read_text())["results"]
        assert len(run["samples"]["say"]) == len(tiny_evaluation.WORDS)


def test_metrics_that_some_documents_do_not_have(task_folder: Path, tmp_path: Path, wandb: type[Wandb], caplog) -> None:
    run_sweep(tiny_sweep(task_folder, tmp_path, **SPARSE, wandb_args={"project": "kv"}))
    assert "is not on W&B" not in caplog.text
    assert [sample["zero"] for sample in wandb.runs[0]["samples"]["some"]][:2] == [3.0, None]


def test_a_cell_that_wandb_refuses_is_logged_and_kept(
    task_folder: Path, tmp_path: Path, wandb: type[Wandb], caplog: pytest.LogCaptureFixture
) -> None:
    wandb.broken = True
    folders = run_sweep(tiny_sweep(task_folder, tmp_path, **TWO_CELLS, wandb_args={"project": "kv"}))
    assert all(list(path.glob("results_*.json")) for path in folders)
    assert [run["finished"] for run in wandb.runs] == [1, 1]
    assert f"cell {folders[0].name} of say is not on W&B: no space left on W&B" in caplog.text


class Hub:
    """In place of the Hub: what is uploaded to it."""

    def __init__(self) -> None:
        self.uploaded: list[str] = []
        self.created: set[tuple[str, bool]] = set()

    def create_repo(self, repo_id: str, private: bool, **_: object) -> None:
        self.created.add((repo_id, private))

    def upload_file(self, path_in_repo: str, path_or_fileobj: str, **_: object) -> None:
        assert json.loads(Path(path_or_fileobj).read_text())["config"]["fairkv"]
        self.uploaded.append(path_in_repo)

    def upload_folder(self, folder_path: str, path_in_repo: str, **_: object) -> None:
        assert list(Path(folder_path).iterdir())
        self.uploaded.append(path_in_repo)


def test_every_cell_is_pushed_and_the_card_is_made_once(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, cards = Hub(), []
    tracker = loggers.EvaluationTracker
    monkeypatch.setattr(tracker, "_api", staticmethod(lambda token=None: hub if token else None))
    monkeypatch.setattr(tracker, "recreate_metadata_card", lambda self: cards.append(self.results_repo))
    monkeypatch.setenv("HF_TOKEN", "a token")
    args = "push_results_to_hub=True,hub_results_org=lab,results_repo_name=kv,public_repo=True"
    folders = run_sweep(tiny_sweep(task_folder, tmp_path, **TWO_CELLS, hf_hub_log_args=args))
    assert len(hub.uploaded) == len(folders) == 2
    assert all("results_" in name for name in hub.uploaded)
    assert hub.created == {("lab/kv", False)} and cards == ["lab/kv"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"wandb_args": {"project": "kv"}}, "wandb_args needs W&B: pip install wandb"),
        ({"wandb_config_args": {"a": 1}}, "wandb_args is not"),
        ({"hf_hub_log_args": {"push_result_to_hub": True}}, r"'push_result_to_hub'\. Did you mean 'push_results_to"),
        ({"hf_hub_log_args": {"push_results_to_hub": True}}, "hf_hub_log_args: Hugging Face token is not defined"),
        ({"hf_hub_log_args": {"output_path": "x"}}, "'output_path'"),
    ],
)
def test_a_logger_that_is_unavailable_is_refused_first(
    keys: dict, message: str, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    sweep = tiny_sweep(task_folder, tmp_path / "out", **TWO_CELLS, **keys)
    with pytest.raises(UsageError, match=message):
        check_loggers(sweep)
    with pytest.raises(UsageError, match=message):
        run_sweep(sweep)
    assert not (tmp_path / "out").exists()


def test_arguments_are_a_mapping(task_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="wandb_args='kv' is not allowed; it takes a mapping, or name=value"):
        tiny_sweep(task_folder, tmp_path, wandb_args="kv")
