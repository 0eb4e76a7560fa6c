# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `check` found, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attr

from synapse_msc3881.admin.table import Cell, Screen, display_width, fit

PROBLEM = "problem"
NOTE = "note"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Finding:
    """Something that the admin should know.

    Attributes:
        severity: `PROBLEM`: the module does not do what it should, or Synapse does not start.
            `NOTE`: all is well as far as can be seen.
        where: what it is about, for example a file or a process.
        what: what was found.
        remedy: what to do about it.
    """

    severity: str
    where: str
    what: str
    remedy: str = ""


def problem(where: str, what: str, remedy: str = "") -> Finding:
    return Finding(PROBLEM, where, what, remedy)


def note(where: str, what: str, remedy: str = "") -> Finding:
    return Finding(NOTE, where, what, remedy)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class SeamReport:
    """One part of Synapse that the module relies on.

    Attributes:
        where: its place.
        since: the oldest version of Synapse for which it is known to hold.
        relies_on: what the module does with it and needs from it.
        state: "ok", "bad", or "startup": it exists only in a running Synapse, where the module
            checks it at startup.
        problem: what is wrong with it.
    """

    where: str
    since: str
    relies_on: str
    state: str
    problem: str | None = None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ProcessReport:
    """One process of Synapse.

    Attributes:
        name: its instance name; "main" for the main process.
        files: what it is started with.
        module: "yes", "no", "bad" (its entry would stop the process) or "unknown".
        duties: what it does that concerns the module.
        own_file: for a worker, the file that comes after those that all processes read.
        page: where it serves the users' page: its listeners, for example "port 8008"; empty if
            it does not.
        page_url: the page's address for users, based on the homeserver's public address.
    """

    name: str
    files: Sequence[str]
    module: str
    duties: Sequence[str] = ()
    own_file: str | None = None
    page: Sequence[str] = ()
    page_url: str | None = None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DatabaseReport:
    """The database of the deployment.

    Attributes:
        engine: "SQLite" or "PostgreSQL".
        where: the file, or the database's name, host and user.
        answers: whether it could be read.
        exists: False for a SQLite file that Synapse has not made yet.
        schema: the files of the module's schema that are recorded as applied.
        tables: those of the module's tables that exist.
    """

    engine: str
    where: str
    answers: bool = False
    exists: bool = True
    schema: Sequence[str] = ()
    tables: Sequence[str] = ()


@attr.s(auto_attribs=True, slots=True)
class Report:
    """All that `check` found."""

    module_version: str
    synapse_version: str | None
    synapse_tested: bool
    python: str
    seams: list[SeamReport] = attr.ib(factory=list)
    processes: Sequence[ProcessReport] = ()
    database: DatabaseReport | None = None
    findings: list[Finding] = attr.ib(factory=list)

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == PROBLEM]

    @property
    def notes(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == NOTE]


def as_json(report: Report) -> str:
    """The report for programs: the attributes as above, and `ok`."""
    content: dict[str, Any] = {"ok": not report.problems, **attr.asdict(report)}
    return json.dumps(content, indent=2)


def show(report: Report, screen: Screen, *, quiet: bool, verbose: bool) -> None:
    """Write the report for people: the verdict, what to do, and what was checked.

    Args:
        report: what was found.
        screen: where to write.
        quiet: leave out what was checked.
        verbose: list each part of Synapse that the module relies on, even if all fit.
    """
    count = len(report.problems)
    what = "No problem" if not count else f"{count} problem{'s' if count > 1 else ''}"
    screen.line(f"{what} found. {_versions(report)}", "red" if count else "green")
    screen.line()
    _show_findings(report, screen)
    if not quiet:
        _show_processes(report, screen)
        _show_page(report, screen)
        _show_database(report, screen)
        _show_seams(report, screen, verbose=verbose)


def _show_findings(report: Report, screen: Screen) -> None:
    for title, findings, style in (
        ("Problems", report.problems, "red"),
        ("Notes", report.notes, "yellow"),
    ):
        if findings:
            screen.line(title, "bold")
        for finding in findings:
            _show_finding(finding, screen, style)


def _versions(report: Report) -> str:
    synapse = report.synapse_version or "of an unknown version"
    tested = " (tested)" if report.synapse_tested else ""
    return f"synapse_msc3881 {report.module_version}, Synapse {synapse}{tested}, {report.python}"


def _show_seams(report: Report, screen: Screen, *, verbose: bool) -> None:
    if not report.seams:
        return
    bad = sum(seam.state == "bad" for seam in report.seams)
    if not verbose and not bad:
        later = sum(seam.state == "startup" for seam in report.seams)
        screen.line(
            f"{len(report.seams)} parts of Synapse that the module relies on: all as they have to "
            f"be, but for {later} that only a running Synapse has, which looks at them at startup"
        )
        return
    screen.line("Parts of Synapse that the module relies on, each known since a version", "bold")
    for seam in report.seams:
        what = f": {seam.problem}" if seam.problem else ""
        style = {"bad": "red", "startup": "dim"}.get(seam.state, "")
        screen.line(f"  {seam.state:<7}  {seam.since:<5}  {seam.where}{what}", style)


def _show_processes(report: Report, screen: Screen) -> None:
    if not report.processes:
        return
    screen.line("Processes", "bold")
    rows = [("  name", "module", "started with", "what it does")]
    for process in report.processes:
        files = f"… {process.own_file}" if process.own_file else " ".join(process.files)
        rows.append((f"  {process.name}", process.module, files, ", ".join(process.duties)))
    names = ("name", "module", "files")
    wanted = {
        name: max(display_width(row[column]) for row in rows) for column, name in enumerate(names)
    }
    widths = fit(wanted, screen.width * 2 // 3)
    for index, row in enumerate(rows):
        style = "dim" if index == 0 else "red" if row[1] in ("no", "bad") else ""
        screen.row([Cell(text, style) for text in row], widths)
    screen.line()


def _show_page(report: Report, screen: Screen) -> None:
    if not report.processes:
        return
    screen.line("The page for users", "bold")
    serving = [process for process in report.processes if process.page]
    if not serving:
        screen.line("  is not served: `page.enabled` of the module is not true")
    for url in dict.fromkeys(process.page_url for process in serving):
        screen.line(f"  {url}")
    for process in serving:
        screen.line(f"  served by {process.name} at {', '.join(process.page)}")
    screen.line()


def _show_database(report: Report, screen: Screen) -> None:
    database = report.database
    if database is None:
        return
    screen.line("Database", "bold")
    answers = "could be read" if database.answers else "could not be read"
    if not database.exists:
        answers = "not made yet"
    screen.line(f"  {database.engine}, {database.where}: {answers}")
    if database.answers:
        schema = ", ".join(database.schema) or "none"
        tables = ", ".join(database.tables) or "none"
        screen.line(f"  applied files of the module's schema: {schema}")
        screen.line(f"  the module's tables: {tables}")
    screen.line()


def _show_finding(finding: Finding, screen: Screen, style: str) -> None:
    lines = f"{finding.where}: {finding.what}".splitlines()
    screen.line(f"  - {lines[0]}", style)
    for line in lines[1:]:
        screen.line(f"    {line}", style)
    for line in finding.remedy.splitlines():
        screen.line(
            f"    -> {line}" if line == finding.remedy.splitlines()[0] else f"       {line}"
        )
    screen.line()
