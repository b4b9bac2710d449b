"""A large file in parts that are joined again, and checked by their SHA-256; for the standard library alone.

python3 model_parts.py FOLDER TARGET    joins the parts that lie in FOLDER to a file in the folder TARGET
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "model.json"


def split(source: Path, sizes: Iterable[int], folder: Path, loads: Iterable[Path]) -> list[Path]:
    """Write a file's parts, of these sizes, each into its own folder below ``folder``; beside the first a list of
    them all."""
    parts: list[dict[str, Any]] = []
    whole = hashlib.sha256()
    with source.open("rb") as file:
        for size, load in zip(sizes, loads, strict=False):
            content = file.read(size)
            path = load / f"{source.name}.{len(parts) + 1}"
            path.write_bytes(content)
            whole.update(content)
            digest = hashlib.sha256(content).hexdigest()
            parts.append({"file": path.relative_to(folder).as_posix(), "bytes": len(content), "sha256": digest})
    manifest = {"name": source.name, "sha256": whole.hexdigest(), "parts": parts}
    (folder / parts[0]["file"]).with_name(MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return [folder / part["file"] for part in parts]


def join(folder: Path, target: Path) -> Path:
    """Join the parts below ``folder`` to a file in ``target``; SystemExit names what is missing or damaged."""
    manifests = sorted(folder.rglob(MANIFEST))
    if not manifests:
        raise SystemExit(f"no {MANIFEST} below {folder}: run `make device-bundle` first, and bring its folders here")
    manifest = json.loads(manifests[0].read_text())
    target.mkdir(parents=True, exist_ok=True)
    path = target / manifest["name"]
    if path.is_file() and sha256(path) == manifest["sha256"]:
        return path
    with path.open("wb") as whole:
        for part in manifest["parts"]:
            source = folder / part["file"]
            if not source.is_file():
                raise SystemExit(f"{part['file']} is missing in {folder}")
            if sha256(source) != part["sha256"]:
                raise SystemExit(f"{part['file']} is damaged: its SHA-256 is not {part['sha256']}")
            whole.write(source.read_bytes())
    return path


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    print(join(Path(sys.argv[1]), Path(sys.argv[2])))
