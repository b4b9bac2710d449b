"""Where numbers come from: versions, commit and weights; and the guard against another run's cached answers."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import MutableMapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.pretrained import PACKAGE
from fairkv_eval.sentence_splitter import ensure_sentence_splitter

# Packages whose version a number can depend on. Not the commit: it changes with every edit of a README, after which a
# sweep could not resume. A press and a task's functions have digests of their own.
DECIDING = ("fairkv-eval", "lm-eval", "torch", "transformers")

_CACHE_KEY = "fairkv-eval"  # the harness's own keys are SHA-256 digests


@cache
def describe() -> dict[str, Any]:
    """Versions of the packages that compute, the commit if this is a checkout, and the sentence splitter."""
    names = ("fairkv-eval", "lm-eval", "torch", "transformers", "accelerate", "tokenizers")
    return {
        "versions": {**{n: version_of(n) for n in names}, "python": platform.python_version()},
        "commit": commit(),
        "sentence_splitter": ensure_sentence_splitter(),
    }


def commit() -> str | None:
    """Commit of the checkout that runs, with ``-dirty`` if it was changed since; None for an installed wheel."""
    top = Path(__file__).resolve().parent.parent
    if not (top / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=top,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def model_name(pretrained: Any) -> str:
    """A model's name without paths of this machine: the hub name, or the last part of a local path."""
    if not isinstance(pretrained, str):
        return type(pretrained).__name__
    path = PureWindowsPath(pretrained) if "\\" in pretrained else PurePath(pretrained)
    if path.is_absolute() or pretrained.startswith((".", "~")) or len(path.parts) > 2:
        return f"package {PACKAGE}" if path.name == PACKAGE else path.name
    return pretrained


def nameless(value: Any) -> Any:
    """A value, of an absolute path its last part alone."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def claim_response_cache(database: MutableMapping[str, Any], fingerprint: dict[str, Any]) -> None:
    """Store the fingerprint in an empty response cache; UsageError if the cache has another one.

    The harness keys answers by prompt alone, so that it would silently reuse those of another policy, model or dtype.
    """
    fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True))
    if len(database) == 0:
        database[_CACHE_KEY] = fingerprint
        return
    written = database.get(_CACHE_KEY)
    if written is None:
        raise UsageError("the --use_cache database was not written by fairkv; name another file")
    different = [k for k in sorted({*fingerprint, *written}) if fingerprint.get(k) != written.get(k)]
    if different:
        both = ", ".join(f"{k}: {written.get(k)!r} there, {fingerprint.get(k)!r} here" for k in different)
        raise UsageError(f"the --use_cache database belongs to another run ({both}); name another file")


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def shorten_source(metadata: dict[str, Any]) -> None:
    """Cut ``config_source``, the path of a task's YAML in the harness's metadata, to its part from tasks/ on.

    Without such a folder only the file's name stays.
    """
    path = Path(metadata.get("config_source") or "")
    if path.is_absolute():
        start = path.parts.index("tasks") if "tasks" in path.parts else -1
        metadata["config_source"] = "/".join(path.parts[start:])
