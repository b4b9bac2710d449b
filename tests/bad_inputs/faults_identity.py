"""What a model, its answers and its results are identified by, and what is refused for want of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import synthetic_results
from bad_input import call

from fairkv_eval.harness.model_identity import check_identified
from fairkv_eval.provenance import claim_response_cache
from fairkv_eval.results.publish import publish
from fairkv_eval.source_digest import digest
from fairkv_eval.view.source import of_run


def unidentified(**sources: Any) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        check_identified({"sources": sources}, dict.fromkeys(sources, "no/such-model"))

    return run


def cache(written: dict[str, Any]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        claim_response_cache(written, {"press": "tova", "sources": {"pretrained": {"files": "b"}}})

    return run


def written(folder: Path, **changes: Any) -> Path:
    """A result with these entries."""
    path = synthetic_results.write(folder, press="tova", ratio=0.5)
    result = json.loads(path.read_text())
    metadata = changes.pop("metadata", {})
    result["configs"][synthetic_results.TASK]["metadata"] = metadata
    path.write_text(json.dumps({**result, **changes}))
    return path


def published_twice(folder: Path) -> None:
    written(folder / "own")
    for _ in range(2):
        publish([folder / "own"], folder / "out")


CASES = [
    call(
        "pretrained without files or commit", unidentified(pretrained=None), "pretrained='no/such-model'", "--use_cache"
    ),
    call("peft without files or commit", unidentified(pretrained={}, peft=None), "peft='no/such-model'", "identified"),
    call("an adapter whose base is unknown", unidentified(pretrained={"files": "a", "base": None}), "pretrained="),
    call(
        "a cache of another model",
        cache({"fairkv-eval": {"press": "tova", "sources": {}}}),
        "sources: {}",
        "another run",
    ),
    call("a cache of another policy", cache({"fairkv-eval": {"press": "h2o"}}), "press: 'h2o' there, 'tova' here"),
    call("a cache of another program", cache({"text": "answer"}), "not written by fairkv"),
    call(
        "a function without source", lambda folder: digest([eval("lambda x: x")]), "source of <lambda> cannot be read"
    ),
    call("published over another", published_twice, "exists already; name another folder"),
    call(
        "a published result in a view",
        lambda folder: of_run(written(folder, system_instruction_sha="d" * 64)),
        "published without its --system_instruction",
    ),
]
