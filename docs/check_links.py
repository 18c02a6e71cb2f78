"""Does every link of the built manual lead somewhere: page, picture and heading?

    python docs/check_links.py docs/_build/html      # `make docs` does so after each build

Links to other sites are counted, not asked: `make links` asks them, with Sphinx's own link checker, where there is a
connection. Exit code 1 lists what leads nowhere.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and what it may be linked by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name in ("href", "src"):
                self.links.append(value)
            elif name in ("id", "name"):
                self.anchors.add(value)


def dead_links(site: Path) -> tuple[list[str], int, int]:
    """(page: link, that leads nowhere; links followed; links to other sites)."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    dead: set[str] = set()
    num_inner = num_outer = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                num_outer += parts.scheme in ("http", "https")
                continue
            num_inner += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            found = target in pages and unquote(parts.fragment) in pages[target].anchors
            if not found and (target in pages or not target.is_file()):
                dead.add(f"{path.relative_to(site)}: {link}")
    return sorted(dead), num_inner, num_outer


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    dead, num_inner, num_outer = dead_links(site)
    print("\n".join([*dead, f"{num_inner} links followed, {len(dead)} dead; {num_outer} to other sites"]))
    sys.exit(bool(dead))


if __name__ == "__main__":
    main()
