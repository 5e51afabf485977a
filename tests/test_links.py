"""The form of the links in README.md, the other pages beside it, and the pages of docs/.

An external link is `[text](https://host/path)`: on one line, complete, with https, and without a
title or a login. An address of a file on a forge names a tag or a commit, because a branch changes.
An internal link is `[text](path)`, and its file exists in this repository. Outside of code, each
address is a link, and there is no HTML except comments. The description on the package index is
made from the README, and has external links only.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MARKDOWN = MarkdownIt("commonmark").enable("table")
FORM = "not in the form [text](address)"
# Addresses, and brackets that are no link: one with a space, or with a name that is not defined.
BARE = re.compile(r"\w://|\bwww\.|\]\(|\]\[")
FILE_ON_FORGE = re.compile(r"/(?:blob|tree|raw|blame|edit)/(?P<ref>[^/]+)")
FIXED_REF = re.compile(r"[0-9a-f]{40}|.*\d\.\d.*")


def faults_of(text: str, folder: Path, internal: bool = True) -> list[str]:
    """Return what is wrong with the links of a page.

    Args:
        folder: internal links are relative to it.
        internal: whether there may be internal links.
    """
    return [
        f"{fault}: {shown}"
        for block in MARKDOWN.parse(text)
        for fault, shown in faults_of_block(block, folder, internal)
    ]


def faults_of_block(block: Token, folder: Path, internal: bool) -> Iterator[tuple[str, str]]:
    """Yield the faults of a block, each with the text that has it."""
    in_link = False
    for token in [block, *(block.children or [])]:
        in_link = token.type == "link_open" or (in_link and token.type != "link_close")
        if token.type in ("link_open", "image"):
            address = str(token.attrs.get("href", token.attrs.get("src")))
            if f"]({address})" not in block.content:
                yield FORM, address
            if not urlsplit(address).scheme and not internal:
                yield "internal", address
            elif fault := fault_of_address(address, folder):
                yield fault, address
        elif token.type in ("html_block", "html_inline") and not token.content.startswith("<!--"):
            yield "HTML", token.content
        elif token.type == "softbreak" and in_link:
            yield "the text of a link has more than one line", block.content
        elif token.type == "text" and not in_link and BARE.search(token.content):
            yield "no link", token.content


def fault_of_address(address: str, folder: Path) -> str | None:
    """Return what is wrong with the address of a link."""
    parts = urlsplit(address)
    if not parts.scheme and not parts.netloc:
        if parts.path and not is_inside(folder / parts.path):
            return "no such file"
        return None
    if not address.startswith("https://"):
        return "not https"
    if not re.fullmatch(r"([a-z0-9-]+\.)+[a-z]+", parts.netloc):
        return "not a host name"
    if not re.fullmatch(r"[!-~]+", address):
        return "characters that are not encoded"
    if (file := FILE_ON_FORGE.search(parts.path)) and not FIXED_REF.fullmatch(file["ref"]):
        return "a branch, which changes"
    return None


def is_inside(path: Path) -> bool:
    """Return whether the file or folder exists in this repository."""
    return path.exists() and path.resolve().is_relative_to(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_have_the_form(page: Path) -> None:
    assert faults_of(page.read_text(), page.parent) == []


def test_the_description_on_the_package_index_has_external_links_only() -> None:
    rendered = subprocess.run(
        [sys.executable, "-m", "hatch_fancy_pypi_readme"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "](https://" in rendered
    assert faults_of(rendered, ROOT, internal=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "[trio](https://trio.readthedocs.io)",
        "[a part](https://trio.readthedocs.io/en/stable/reference-core.html#cancellation)",
        "`https://example.org` and\n\n    curl http://127.0.0.1\n\n```text\nwww.example.org\n```",
        "[tag](https://github.com/a/b/blob/v3.0.12/c.py#L7)",
        f"[commit](https://github.com/a/b/blob/{'0123456789' * 4}/c.py)",
        "[page](docs/index.md), [part](docs/index.md#limits), [here](#limits)",
        "| a |\n|---|\n| [trio](https://trio.readthedocs.io) |",
        "<!-- comment -->",
    ],
)
def test_good_links_have_no_fault(text: str) -> None:
    assert faults_of(text, ROOT) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("https://example.org", "no link"),
        ("Read www.example.org.", "no link"),
        ("[text](https://example.org/a b)", "no link"),
        ("[text] [name][missing]", "no link"),
        ("| a |\n|---|\n| https://example.org |", "no link"),
        ("<https://example.org>", FORM),
        ("[text](<https://example.org>)", FORM),
        ("[text](\nhttps://example.org)", FORM),
        ("[text]( https://example.org )", FORM),
        ('[text](https://example.org "title")', FORM),
        ("[text][name]\n\n[name]: https://example.org", FORM),
        ("[two\nlines](https://example.org)", "the text of a link has more than one line"),
        ('<a href="https://example.org">text</a>', "HTML"),
        ('<p>\n<img src="https://example.org/a.png">\n</p>', "HTML"),
        ("[text](http://example.org)", "not https"),
        ("[text](HTTPS://example.org)", "not https"),
        ("[text](ftp://example.org)", "not https"),
        ("[text](mailto:me@example.org)", "not https"),
        ("[text](//example.org)", "not https"),
        ("![picture](http://example.org/a.png)", "not https"),
        ("[text](www.example.org)", "no such file"),
        ("[text](example.org/page)", "no such file"),
        ("[text](docs/missing.md)", "no such file"),
        ("[text](/docs/index.md)", "no such file"),
        ("[text](../index.md)", "no such file"),
        ("[text](https://localhost/page)", "not a host name"),
        ("[text](https:///page)", "not a host name"),
        ("[text](https://me@example.org)", "not a host name"),
        ("[text](https://Example.org)", "not a host name"),
        ("[text](https://github.com/a/b/blob/master/c.py#L7)", "a branch, which changes"),
        ("[text](https://github.com/a/b/tree/main)", "a branch, which changes"),
        ("[text](https://gitlab.com/a/b/-/blob/HEAD/c.py)", "a branch, which changes"),
    ],
)
def test_a_link_in_another_form_is_refused(text: str, fault: str) -> None:
    found = faults_of(text, ROOT)
    assert found
    assert all(each.startswith(f"{fault}: ") for each in found)


def test_a_link_to_a_file_is_refused_on_the_package_index() -> None:
    assert faults_of("[page](docs/index.md)", ROOT, internal=False) == ["internal: docs/index.md"]
    assert faults_of("[part](#limits)", ROOT, internal=False) == ["internal: #limits"]
