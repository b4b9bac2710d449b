"""Files appear whole or not at all, with the permissions that the umask leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairkv_eval.errors import UsageError
from fairkv_eval.files import write, write_whole


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "old")

    def make(draft: Path) -> None:
        draft.write_text("half of the n")
        raise KeyError("oh")

    with pytest.raises(KeyError):
        write_whole(path, make)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = write(tmp_path / "a.txt", "Größe")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_bytes() == "Größe".encode()


def test_of_a_folder_that_two_write_the_first_stays(tmp_path: Path) -> None:
    def made_by(name: str) -> None:
        def make(draft: Path) -> None:
            draft.mkdir()
            (draft / "by").write_text(name)

        write_whole(tmp_path / "folder", make)

    made_by("first")
    made_by("second")
    assert (tmp_path / "folder" / "by").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write '.*/nowhere/a.txt': No such file or directory"):
        write(tmp_path / "nowhere" / "a.txt", "text")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cannot write '.*/folder'"):
        write(tmp_path / "folder", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
