"""Rewrite the present digests in fairkv_eval/results/former_digests.yaml: ``python tests/support/former_digests.py``.

For a rename inside a rule. If a rule scores otherwise, delete its entries instead: old results are not its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import fairkv_eval
from fairkv_eval.eviction.press_files import load_press

FILE = Path(fairkv_eval.__file__).parent / "results" / "former_digests.yaml"


def digests() -> dict[str, dict[str, Any]]:
    """{press or wrapper/base: {"former": digest, "present": digest}}, as in the file.

    Under ``parameters`` are those that the press has got since, with the value that means what it did before.
    """
    return dict(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def present(name: str) -> str:
    """The digest of a press, or of a wrapper around a base."""
    wrapper, _, base = name.partition("/")
    press = load_press(wrapper, base or None)
    assert press is not None
    return press.sha256


def main() -> None:
    comment = "".join(line for line in FILE.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    rewritten = {name: {**entry, "present": present(name)} for name, entry in digests().items()}
    FILE.write_text(comment + yaml.safe_dump(rewritten, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
