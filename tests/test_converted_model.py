"""A converted copy is the model of its GGUF file, bit by bit; without a copy that can be used, the file is read."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tiny_gguf import write_gguf
from transformers import AutoTokenizer

from fairkv_eval import converted_model
from fairkv_eval.converted_model import loadable
from fairkv_eval.harness.model_identity import model_identity
from fairkv_eval.model import FairKV
from fairkv_eval.model_sources import weights_sha256

TEXT = "Say nothing of the castle. <|end|>\n<|start|>user  Why?"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def filled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder with a copy of the file."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRKV_CACHE", str(folder))
        _loadable(source)
    yield folder


@pytest.fixture
def cache(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of one test, with a copy of the file."""
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    monkeypatch.setenv("FAIRKV_CACHE", str(folder))
    return folder


def _loadable(source: Path, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    return loadable(str(source.parent), {"gguf_file": source.name, **arguments})


def _copy(source: Path, **arguments: Any) -> Path:
    name, rest = _loadable(source, **arguments)
    assert "gguf_file" not in rest
    return Path(name)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_a_copy_is_the_model_of_its_file(source: Path, cache: Path, dtype: str) -> None:
    typed = {"gguf_file": source.name, "dtype": dtype, "device": "cpu"}
    name, loaded = loadable(str(source.parent), typed)
    direct, copied = HFLM(str(source.parent), **typed), HFLM(name, **loaded)
    tokens = torch.arange(250)[None]
    assert torch.equal(direct.model(tokens).logits, copied.model(tokens).logits)
    for key, tensor in direct.model.state_dict().items():
        assert tensor.dtype == copied.model.state_dict()[key].dtype
        assert torch.equal(tensor, copied.model.state_dict()[key]), key
    assert direct.tok_encode(TEXT) == copied.tok_encode(TEXT)
    arguments = {**typed, "pretrained": str(source.parent)}
    assert model_identity(direct, arguments) == model_identity(copied, arguments)


def test_results_name_the_file_and_not_the_copy(source: Path, cache: Path) -> None:
    model = FairKV(str(source.parent), gguf_file=source.name, device="cpu")
    assert model.pretrained == str(source.parent)
    assert model.weights_sha256 == weights_sha256({"gguf_file": source.name}, str(source.parent))
    assert str(cache) not in str(model.get_model_info())


def test_a_copy_is_made_once(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted_model, "convert", pytest.fail)
    assert _copy(source).parent == cache / "models"
    assert AutoTokenizer.from_pretrained(_copy(source)).chat_template


def test_another_file_of_the_same_name_has_another_copy(source: Path, cache: Path, tmp_path: Path) -> None:
    assert _copy(write_gguf(tmp_path / source.name, seed=1)) != _copy(source)


@pytest.mark.parametrize("harm", ["truncated", "altered", "missing", "no manifest", "manifest of others"])
def test_a_damaged_copy_is_named_and_made_anew(
    source: Path, cache: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy = _copy(source)
    weights, manifest = copy / "model.safetensors", copy / "copy.json"
    whole = weights.read_bytes()
    if harm == "truncated":
        weights.write_bytes(whole[:-100])
    elif harm == "altered":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif harm == "missing":
        weights.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"source": {}, "refused": "", "files": {}}')
    assert _copy(source) == copy
    assert f"{copy} is damaged and is made anew" in caplog.text
    assert weights.read_bytes() == whole


def test_without_a_cache_folder_the_file_is_read_with_one_note(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "file"))
    name, rest = _loadable(source)
    assert (name, rest) == (str(source.parent), {"gguf_file": source.name})
    notes = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(notes) == 1 and "FAIRKV_CACHE names another folder" in notes[0] and source.name in notes[0]


def test_a_copy_that_would_not_be_exact_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path))
    monkeypatch.setattr(converted_model, "same_bits", lambda one, other: False)
    assert _loadable(source)[1] == {"gguf_file": source.name}
    (manifest,) = tmp_path.glob("models/*/*")
    assert "lm_head.weight" in manifest.read_text()
    monkeypatch.setattr(converted_model, "convert", pytest.fail)
    assert _loadable(source)[1] == {"gguf_file": source.name}, "it is not tried again"


@pytest.mark.parametrize("arguments", [{"load_in_8bit": True}, {"trust_remote_code": True}, {"variant": "fp16"}])
def test_a_model_that_is_read_otherwise_is_left_alone(source: Path, cache: Path, arguments: dict[str, Any]) -> None:
    assert _loadable(source, **arguments) == (str(source.parent), {"gguf_file": source.name, **arguments})


def test_a_missing_file_is_left_to_the_harness(tmp_path: Path, cache: Path) -> None:
    assert loadable(str(tmp_path), {"gguf_file": "no.gguf"}) == (str(tmp_path), {"gguf_file": "no.gguf"})
    assert loadable("some/model", {"dtype": "auto"}) == ("some/model", {"dtype": "auto"})


def _load_in_process(source: Path, results: Any) -> None:
    results.put(_loadable(source)[0])


def test_processes_that_start_together_make_one_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_load_in_process, args=(source, results)) for _ in range(3)]
    for process in processes:
        process.start()
    names = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert len(names) == 1 and names == {str(path.parent) for path in tmp_path.glob("models/*/copy.json")}
