"""Rows of a declared task: JSON lines in a file or behind a URL, or a data set of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairkv_eval.declared.json_lines import Row, check_kinds, parse
from fairkv_eval.documents.published import CONNECT_TIMEOUT
from fairkv_eval.errors import DataError, UsageError, unknown
from fairkv_eval.files import cache_dir

HUB, URL = {"hub", "name", "split", "revision"}, {"url", "sha256"}


def read_rows(data: Any, folder: Path) -> list[Row]:
    """Read the rows that a task's ``data`` names: a path (relative to ``folder``), ``{url, sha256}``, or
    ``{hub, split, name, revision}``. Raises UsageError for a wrong declaration, DataError for unreadable or empty data.
    """
    if isinstance(data, str):
        rows, source = parse(_file(folder / Path(data).expanduser()), data), data
    elif isinstance(data, Mapping) and "url" in data:
        _check_keys(data, URL)
        rows, source = parse(_file(_fetch(data)), str(data["url"])), str(data["url"])
    elif isinstance(data, Mapping) and "hub" in data:
        _check_keys(data, HUB)
        rows, source = _hub(data), str(data["hub"])
    else:
        raise UsageError(f"data={data!r} is not allowed; it takes a path, {{url, sha256}}, or {{hub, split}}")
    if not rows:
        raise DataError(f"{source}: holds no rows")
    check_kinds(rows, source)
    return rows


def _check_keys(data: Mapping[str, Any], allowed: set[str]) -> None:
    for key in data:
        if key not in allowed:
            raise unknown("key of data", key, allowed)


def _file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"data: cannot be read at {path} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"data: {path} is not UTF-8 text ({error.reason})") from error


def _fetch(data: Mapping[str, Any]) -> Path:
    """Download a file into the cache, or find it there; its path."""
    import pooch
    import requests

    url, sha256 = str(data["url"]), str(data.get("sha256", ""))
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"data: url={url!r} is not allowed; it takes http(s)")
    if len(sha256) != 64:
        raise UsageError(f"data: {url} needs the sha256 of the file, 64 hexadecimal digits; sha256={sha256!r}")
    download, folder = pooch.HTTPDownloader(timeout=CONNECT_TIMEOUT), cache_dir() / "declared" / sha256
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", "rows.jsonl", folder, downloader=download))
    except ValueError as error:  # pooch's hash mismatch; it has removed the download
        raise DataError(f"{url}: is not the file with sha256 {sha256}") from error
    except (OSError, requests.RequestException) as error:
        raise DataError(f"{url}: cannot be fetched ({type(error).__name__}: {str(error)[:200]})") from error


def _hub(data: Mapping[str, Any]) -> list[Row]:
    import datasets

    if "split" not in data:
        raise UsageError(f"data: {data['hub']} needs a split")
    options = {key: data[key] for key in ("name", "split", "revision") if key in data}
    try:
        return list(datasets.load_dataset(data["hub"], **options))
    except Exception as error:  # the errors of the hub's client have no common class
        raise DataError(f"{data['hub']}: cannot be loaded ({type(error).__name__}: {str(error)[:200]})") from error
