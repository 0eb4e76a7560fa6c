# SPDX-License-Identifier: AGPL-3.0-or-later
"""The results as tables in Markdown and charts in SVG: always the same for the same results.

In a document, a table stands between ``<!-- bench: name -->`` and ``<!-- /bench -->``.
"""

import re
from pathlib import Path

import attr

from tests.bench import charts
from tests.bench.report_tables import TABLES
from tests.bench.results import Results

ROOT = Path(__file__).parent.parent.parent
RESULTS = "results.json"

_BLOCK = re.compile(r"(<!-- bench: (?P<name>[\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


@attr.s(auto_attribs=True, frozen=True)
class Docs:
    """Where the results stand in the documentation.

    Attributes:
        page: the document with the tables.
        directory: for the results and charts.
    """

    page: Path
    directory: Path

    @property
    def results(self) -> Path:
        return self.directory / RESULTS


DOCS = Docs(ROOT / "docs" / "performance.md", ROOT / "docs" / "performance")


def write(results: Results, directory: Path, docs: Docs | None) -> list[Path]:
    """Write what is made from results.

    Args:
        results: what was measured.
        directory: for the charts.
        docs: the documentation whose tables to replace; for None, they go to a file in the
            directory.

    Returns:
        The files that were written.
    """
    written = []
    for name, chart in charts.draw(results).items():
        written.append(directory / name)
        written[-1].write_text(chart)
    if docs is not None:
        docs.page.write_text(fill(docs.page.read_text(), results))
        return [*written, docs.page]
    tables = directory / "results.md"
    tables.write_text(
        "\n".join(f"## {name}\n\n{render(results)}" for name, render in TABLES.items())
    )
    return [*written, tables]


def fill(document: str, results: Results) -> str:
    """A document with its tables made anew.

    Raises:
        KeyError: it has a table of a name that there is not.
    """
    return _BLOCK.sub(
        lambda block: f"{block[1]}\n{TABLES[block['name']](results)}\n{block[3]}", document
    )
