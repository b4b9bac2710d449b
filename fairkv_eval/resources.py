"""Where the folders of declarations (tasks, presses) are: inside an installed package, or at the top of a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """The folder `name` ("tasks", "presses") of this installation; FileNotFoundError says where it was looked for."""
    candidates = [_PACKAGE / name]
    # Only a checkout's parent is ours: an installed package's is site-packages, where any project may own "tasks".
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(_PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " or ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(f"fairkv_eval has no folder {name!r} (looked for {looked}): the installation is incomplete")
