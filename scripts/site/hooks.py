# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the documentation site does beyond MkDocs: see mkdocs.yml.

The pages are written for forges, and link to each other and to source files as those want it. So
the site knows every file by its path in the repository, and MkDocs follows and checks the links.
Only the addresses differ: what is below docs/ comes to the top, and the README is the home page.
"""

import functools
import logging
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mermaidx  # type: ignore[import-untyped]
from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# MkDocs counts the warnings below this name; with `strict` each fails the build.
log = logging.getLogger("mkdocs.plugins.site")

OPENAPI = "docs/openapi.yaml"

_LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
_DRAWING = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: GitHub's Markdown, as far as the documents use it.
_FORGE = MarkdownIt().enable("table")
#: Links are left out: each heading has one more on the site.
_COUNTED = re.compile(r"<(h[1-6]|ul|ol|li|pre|table|tr|td|blockquote|img)\b")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Name the files as the repository does, and add those that are not below docs/."""
    root = Path(config.config_file_path).parent
    documents = Path(config.docs_dir).relative_to(root).as_posix()

    def of_the_repository(name: str, dest_uri: str | None = None) -> File:
        return File(name, str(root), config.site_dir, config.use_directory_urls, dest_uri=dest_uri)

    ours = [
        of_the_repository(f"{documents}/{file.src_uri}", file.dest_uri)
        if file.src_dir == config.docs_dir
        else file
        for file in files
    ]
    ours += [of_the_repository(name) for name in sorted(file.name for file in root.glob("*.md"))]
    pages = {file.src_uri: file for file in ours if file.is_documentation_page()}
    ours += [of_the_repository(name, f"source/{name}.txt") for name in _linked_sources(root, pages)]
    mermaid = str(Path(mermaidx.__file__).parent / "assets" / "mermaid.js")
    ours.append(File.generated(config, "assets/javascripts/mermaid.js", abs_src_path=mermaid))
    found = Files(ours)
    openapi = found.get_file_from_path(OPENAPI)
    if openapi:
        found.remove(openapi)
        found.append(_with_links_to_pages(openapi, pages, config))
    return found


def _linked_sources(root: Path, pages: Mapping[str, File]) -> list[str]:
    """The files of the repository that a document links to, and that are no documents."""
    linked = {_target(page, link) for page in pages.values() for link in _links(page)}
    return [
        name
        for name in sorted(linked)
        if name not in pages and not name.startswith(("docs/", "..")) and (root / name).is_file()
    ]


def _links(file: File) -> list[str]:
    return _LINK.findall(file.content_string)


def _target(file: File, link: str) -> str:
    """The path in the repository that a link in a file leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file.src_uri), link))


def _with_links_to_pages(file: File, pages: Mapping[str, File], config: MkDocsConfig) -> File:
    """A file whose links MkDocs does not see, for it is no page."""
    text = file.content_string
    for link in _links(file):
        page = pages.get(_target(file, link))
        if page:
            text = text.replace(f"]({link}", f"]({page.url_relative_to(file)}")
        elif ":" not in link:
            log.warning("'%s' has a link '%s' that leads nowhere.", file.src_uri, link)
    changed = File.generated(config, file.src_uri, content=text)
    changed.dest_uri = file.dest_uri
    return changed


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Warn of a drawing that Mermaid does not understand."""
    for drawing in _DRAWING.findall(markdown):
        problem = _problem_of(drawing)
        if problem:
            log.warning("A drawing in '%s' cannot be drawn: %s", page.file.src_uri, problem)
    return markdown


@functools.cache
def _problem_of(drawing: str) -> str | None:
    try:
        mermaidx.render(drawing).svg()
    except RuntimeError as error:
        return str(error)
    return None


def on_page_content(html: str, page: Page, **_: Any) -> None:
    """Warn of a page that a forge shows in another way: Python-Markdown is not CommonMark."""
    here, there = _counts(html), _counts(_FORGE.render(page.markdown or ""))
    for tag in sorted(here.keys() | there.keys()):
        if here[tag] != there[tag]:
            log.warning(
                "'%s' has %s <%s> here and %s on a forge. Write it so that both show the same.",
                page.file.src_uri,
                here[tag],
                tag,
                there[tag],
            )


def _counts(html: str) -> Counter[str]:
    return Counter(_COUNTED.findall(html))
