"""Task YAMLs that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml


def unreadable(folders: Iterable[Path]) -> Iterator[str]:
    """What is wrong with each YAML in these folders that is no YAML, or includes a file that is not there."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in (path for folder in folders for path in sorted(folder.glob("**/*.yaml"))):
        try:
            load_yaml(path, resolve_func=False)
        except (yaml.YAMLError, OSError) as error:
            yield f"{path}: {' '.join(str(error).split())}"
        except ValueError:
            pass  # a YAML of something else
