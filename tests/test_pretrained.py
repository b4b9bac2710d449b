"""A model's tokenizer alone: from its folder, or from its GGUF file with or without a converted copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from tiny_gguf import write_gguf

from fairkv_eval.errors import UsageError
from fairkv_eval.pretrained import TOKENIZER_SOURCE, load_tokenizer

TEXT = "Say nothing of the castle."


@pytest.mark.parametrize("copied", [True, False])
def test_of_a_gguf_file(copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    if not copied:
        (tmp_path / "cache").write_text("a file, in which nothing can be kept")
    file = write_gguf(tmp_path / "tiny.gguf")
    tokenizer = load_tokenizer(str(tmp_path), gguf_file=file.name, dtype="bfloat16")
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert len(list((tmp_path / "cache").glob("models/*/copy.json"))) == copied


def test_of_a_folder(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), dtype="float32")
    assert tokenizer(TEXT)["input_ids"] == tiny.tokenizer()(TEXT)["input_ids"]
    with pytest.raises(UsageError, match="no tokenizer can be read"):
        load_tokenizer(str(tmp_path / "nothing"), dtype="float32")
    assert {"pretrained", "gguf_file", "dtype"} <= set(TOKENIZER_SOURCE)
