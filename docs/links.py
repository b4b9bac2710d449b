"""MkDocs hook: README.md and the READMEs of the folders are pages of the site, and links hold in both places.

Every page is written for the repository, so that its links lead to files. Here links to pages lead to pages, and a link
to a file that the site does not have becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "presses/README.md": "presses.md",
    "tasks/README.md": "tasks/index.md",
    **{
        f"tasks/{path.parent.name}/README.md": f"tasks/{path.parent.name}.md" for path in ROOT.glob("tasks/*/README.md")
    },
    "results/README.md": "results.md",
    "results/needle.md": "needle.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_SOURCES = {uri: source for source, uri in PAGES.items()}
_LINK = re.compile(
    r"(?P<open>\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\(|(?:src|srcset|href)=\")"
    r"(?P<to>[^)\s\"#:]+)(?P<rest>#[^)\"]*)?(?P<close>[)\"])"
)


def on_files(files: Any, config: Any) -> Any:
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
        for image in _images(source):
            if not files.get_file_from_path(_uri(image)):
                files.append(File.generated(config, _uri(image), abs_src_path=str(ROOT / image)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    source = _SOURCES.get(uri, f"docs/{uri}")

    def replaced(match: re.Match[str]) -> str:
        target = _resolved(source, match["to"])
        if not (ROOT / target).exists():
            return match[0]  # for mkdocs to complain of
        if (
            target not in PAGES
            and not _is_image(target)
            and not (target.startswith("docs/") and target.endswith(".md"))
        ):
            return match["text"] or match[0]
        to = posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".")
        return f"{match['open']}{to}{match['rest'] or ''}{match['close']}"

    return _LINK.sub(replaced, markdown)


def _images(source: str) -> list[str]:
    text = (ROOT / source).read_text(encoding="utf-8")
    targets = {_resolved(source, match["to"]) for match in _LINK.finditer(text)}
    return sorted(target for target in targets if _is_image(target) and (ROOT / target).is_file())


def _uri(target: str) -> str:
    """Where a file of the repository is in the site."""
    return PAGES.get(target, target.removeprefix("docs/"))


def _resolved(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _is_image(target: str) -> bool:
    return target.endswith((".png", ".svg"))
