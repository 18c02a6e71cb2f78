"""Is every block of code in the manual run by a test, or at least parsed? Does every inner link lead somewhere?

EXECUTED names the test that runs a page's blocks. All other blocks of shell are held against the command tree by
test_docs_names.py, YAML, JSON and TOML are parsed here, and Python outside a page that runs is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
ALL = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md", *PAGES]
EXECUTED = {
    "README.md": "tests/test_house.py",
    "docs/tutorial.md": "tests/test_tutorial.py",
    "docs/how-to/notebooks.md": "tests/test_how_to_notebooks.py",
    "docs/how-to/archive.md": "tests/test_how_to_archive.py",
    "docs/how-to/folders.md": "tests/test_how_to_folders.py",
    "docs/how-to/embed.md": "tests/test_how_to_embed.py",
    "docs/how-to/extend.md": "tests/test_how_to_extend.py",
    "docs/how-to/hugging-face.md": "tests/test_how_to_hugging_face.py",
    "docs/how-to/own-scans.md": "tests/test_how_to_own_scans.py",
    "docs/how-to/pretrain-and-segment.md": "tests/med3dinsight/test_how_to.py",
    "docs/how-to/serve.md": "tests/serving/test_how_to.py",
}
"""Pages with Python, each with the test that runs it."""
ELSEWHERE = {"docs/how-to/vllm.md"}
"""Pages whose Python needs an environment of its own (make test-vllm)."""
LANGUAGES = {"", "sh", "text", "python", "yaml", "json", "toml", "console", "diff", "ini", "html", "js", "xml"}
FENCE = re.compile(r"^(`{3,}|:{3,})([^\n]*)\n(.*?)^\1\s*$", flags=re.MULTILINE | re.DOTALL)
TARGETS = re.compile(r"(?<!`)\]\(([^)\s]+)\)|\{doc\}`(?:[^`<]*<)?([^`>]+)>?`")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of code; directives are not code."""
    found = [(head.strip(), body) for _, head, body in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [(head, body) for head, body in found if not head.startswith("{")]


def without_blocks(text: str) -> str:
    return re.sub(r"^(```)[^\n]*\n.*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a heading is called in an address, as MyST and GitHub make it."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    if included := re.search(r"\{include\} (\S+)", page.read_text(encoding="utf-8")):
        text += (page.parent / included[1]).read_text(encoding="utf-8")
    titles = re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"[`*\[\]]|\(.*?\)", "", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(REPOSITORY)))


@each(ALL)
def test_every_block_says_a_language_that_is_known_and_can_be_read_as_it(page):
    for language, text in blocks(page):
        assert language in LANGUAGES, f"{page}: {language}"
        if language == "python":
            compile(text, str(page), "exec")
        elif language == "yaml":
            yaml.safe_load(text)
        elif language == "toml":
            tomllib.loads(text)
        elif language == "json":
            try:
                json.loads(text)
            except json.JSONDecodeError:  # lines of JSON
                assert [json.loads(line) for line in text.splitlines() if line.strip()]


@each(ALL)
def test_python_stands_only_on_pages_that_a_test_runs(page):
    name = str(page.relative_to(REPOSITORY))
    if name in ELSEWHERE:
        return
    if any(language == "python" for language, _ in blocks(page)):
        assert name in EXECUTED, f"{name}: write a test that runs its Python, and name it in EXECUTED"
        test = (REPOSITORY / EXECUTED[name]).read_text(encoding="utf-8")
        assert page.name in test
        assert re.search(r"```|blocks\(", test), f"{EXECUTED[name]} does not take the page's blocks"
    else:
        assert name not in EXECUTED


def dead_links(page: Path) -> list[str]:
    """Targets of a page that lead nowhere: files, pages, anchors and pictures; other sites are not asked."""
    dead = []
    for link, document in TARGETS.findall(without_blocks(page.read_text(encoding="utf-8"))):
        target = link or f"{document}.md"
        if "://" in target or target.startswith("mailto:"):
            continue
        place, _, anchor = target.partition("#")
        base = DOCS if place.startswith("/") else page.parent
        path = (base / place.lstrip("/")).resolve() if place else page
        is_there = path.is_file() or (bool(document) and path.with_suffix(".ipynb").is_file()) or (
            path.is_dir() and page.parent == REPOSITORY
        )  # fmt: skip
        has_anchor = not anchor or (path.suffix == ".md" and anchor in anchors(path)) or path.suffix == ".py"
        if not (is_there and has_anchor):
            dead.append(target)
    return dead


@each(ALL)
def test_every_link_inside_the_manual_leads_somewhere(page):
    assert not dead_links(page)


def test_a_dead_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A title, here\n")
    page.write_text(
        "[a](other.md) [b](other.md#a-title-here) {doc}`other` [x](none.md) [y](other.md#no-such) {doc}`gone`\n"
        "![z](picture.png) [w](https://example.org)\n```\n[in code](nowhere.md)\n```\n"
    )
    assert dead_links(page) == ["none.md", "other.md#no-such", "gone.md", "picture.png"]


def test_languages_are_ones_that_the_manual_colours():
    from pygments.lexers import get_lexer_by_name

    for language in LANGUAGES - {""}:
        assert get_lexer_by_name(language)


def test_a_built_page_that_leads_nowhere_would_be_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    from check_links import dead_links as dead_in_site

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "page.html").write_text(
        '<h1 id="title"></h1><a href="#title"><a href="#none">'
        '<a href="../index.html#here"><a href="../index.html#gone">'
        '<img src="no.png"><img src="../picture.png"><a href="https://example.org"><a href="mailto:x@y">'
    )
    (tmp_path / "index.html").write_text('<p id="here"><a href="a/page.html"><a href="a/other.html"><a href="#">')
    (tmp_path / "picture.png").touch()
    dead, num_inner, num_outer = dead_in_site(tmp_path)
    in_page = [f"a/page.html: {link}" for link in ("#none", "../index.html#gone", "no.png")]
    assert dead == sorted([*in_page, "index.html: a/other.html"])
    assert (num_inner, num_outer) == (9, 1)


def test_every_picture_of_the_manual_is_shown_on_a_page_and_none_is_heavy():
    pages = "".join(page.read_text(encoding="utf-8") for page in ALL)
    for picture in (DOCS / "pictures").glob("*.png"):
        assert f"pictures/{picture.name}" in pages, picture.name
        assert picture.stat().st_size < 600_000, picture.name


def test_generated_reference_has_every_verb_and_every_module(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "extensions")
    from generated import command_pages, module_rows

    pages = dict(command_pages())
    assert {"slicesight ask", "slicesight publish", "slicesight insight predict"} <= set(pages)
    assert "| `--html FILE` | Write a self-contained report page. |  |" in pages["slicesight ask"]
    assert "must be given" in pages["slicesight ask"], "SCAN has no default"
    assert "| `--format NIFTI\\|DICOM` |" in pages["slicesight phantom"]
    modules = {name for _, rows in module_rows() for name, _ in rows}
    assert {"slicesight.volumes.grid", "slicesight.reports.notebook", "slicesight.errors"} <= modules
