"""What a model is made of: every file that transformers may read counts, and what cannot be known is not guessed."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM

from fairkv_eval.harness import settings
from fairkv_eval.model_sources import NAMING, NOT_ANSWERING, answering, folder_sha256, source, weights_sha256

COMMITS = ("a" * 40, "b" * 40)


class TestWeights:
    def test_one_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"weights")
        assert weights_sha256({}, str(tmp_path)) == hashlib.sha256(b"weights").hexdigest()

    def test_a_named_gguf_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.gguf").write_bytes(b"one")
        (tmp_path / "b.gguf").write_bytes(b"other")
        assert weights_sha256({"gguf_file": "b.gguf"}, str(tmp_path)) == hashlib.sha256(b"other").hexdigest()

    def test_any_of_several_files_counts(self, tmp_path: Path) -> None:
        def digest(folder: str, *contents: bytes) -> str | None:
            (tmp_path / folder).mkdir()
            for i, content in enumerate(contents):
                (tmp_path / folder / f"model-{i}.safetensors").write_bytes(content)
            return weights_sha256({}, str(tmp_path / folder))

        assert digest("first", b"a", b"b") == digest("second", b"a", b"b")
        assert len({digest("third", b"a", b"b"), digest("fourth", b"a", b"c"), digest("fifth", b"b", b"a"), None}) == 4

    def test_none_for_what_is_not_here(self, tmp_path: Path) -> None:
        assert weights_sha256({}, "some/hub-name") is None
        assert weights_sha256({}, object()) is None
        assert weights_sha256({}, str(tmp_path)) is None

    def test_of_another_format_or_in_a_subfolder(self, tmp_path: Path) -> None:
        (tmp_path / "inner").mkdir()
        (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
        (tmp_path / "inner" / "model.safetensors").write_bytes(b"inner")
        assert weights_sha256({}, str(tmp_path)) == hashlib.sha256(b"pickled").hexdigest()
        assert weights_sha256({"subfolder": "inner"}, str(tmp_path)) == hashlib.sha256(b"inner").hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with shards in a folder of their own."""
    for name in (
        "config.json",
        "a.gguf",
        "b.gguf",
        "deep/one.safetensors",
        "deep/other.safetensors",
        "templates/x.jinja",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    index = {"weight_map": {"layer": "deep/one.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "templates/x.jinja"),
        *("pytorch_model.bin", "model.safetensors", "a.gguf", "deep/one.safetensors", "modeling.py", "new.format"),
    ],
)
def test_a_file_that_may_be_read(name: str, folder: Path) -> None:
    before = folder_sha256(folder)
    (folder / name).write_text("otherwise")
    assert folder_sha256(folder) != before


@pytest.mark.parametrize("name", ["README.md", "optimizer.pt", ".git", "deep/other.safetensors", "rng_state_0.pth"])
def test_a_file_that_is_not_read(name: str, folder: Path) -> None:
    before = folder_sha256(folder)
    (folder / name).write_text("otherwise")
    assert folder_sha256(folder) == before


def test_a_named_gguf_file_is_the_only_one_with_weights(folder: Path) -> None:
    before = folder_sha256(folder, "a.gguf")
    (folder / "b.gguf").write_text("otherwise")
    assert folder_sha256(folder, "a.gguf") == before
    (folder / "a.gguf").write_text("otherwise")
    assert folder_sha256(folder, "a.gguf") != before


def test_an_adapter_has_its_base_beside_it(tmp_path: Path) -> None:
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"base")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    before = source(str(path.parent), {})
    assert before is not None and before["base"] == source(str(tmp_path / "base"), {})
    (tmp_path / "base" / "model.safetensors").write_bytes(b"other")
    assert source(str(path.parent), {}) != before


def test_a_model_of_the_hub_is_its_commit(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--small"
    for revision, commit in zip(("main", "step2"), COMMITS, strict=True):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    arguments = {"cache_dir": str(tmp_path)}
    assert source("someone/small", arguments) == {"commit": COMMITS[0]}
    assert source("someone/small", {**arguments, "revision": "step2"}) == {"commit": COMMITS[1]}
    assert source("someone/else", arguments) is None and source("no such/path/at/all", arguments) is None


def test_arguments_that_count_are_all_but_a_few() -> None:
    """An argument that a later `hf` adds counts until somebody shows that it changes no answer."""
    every = {*inspect.signature(HFLM.__init__).parameters, *settings.defaults(), "an_argument_of_tomorrow"}
    counted = set(answering(dict.fromkeys(every)))
    assert counted == every - set(NOT_ANSWERING) - set(NAMING) and "an_argument_of_tomorrow" in counted
    assert {"subfolder", "dtype", "softmax_dtype", "mixed_precision_dtype", "truncation", "max_length"} <= counted
    assert {"add_bos_token", "prefix_token_id", "think_end_token", "enable_thinking", "chat_template_args"} <= counted
