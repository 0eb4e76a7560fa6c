# SPDX-License-Identifier: AGPL-3.0-or-later
"""`check`: the admin's first aid. It looks at everything and changes nothing.

Whatever needs Synapse's internals is imported late: this must run even if they do not fit, and say
which of them do not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from synapse_msc3881 import __version__
from synapse_msc3881.admin.arguments import add_shared_arguments
from synapse_msc3881.tested import TESTED, TESTED_VERSIONS

if TYPE_CHECKING:
    from synapse_msc3881.admin.report import Report
    from synapse_msc3881.seams.declaring import Declared, SeamStatus

_EPILOG = """\
One process:         check -c homeserver.yaml
Started with more:   check -c homeserver.yaml -c conf.d
With workers:        check -c homeserver.yaml --worker workers/*.yaml

Exit status: 0 no problem, 1 a problem was found, 2 wrong usage."""


_DOES_NOT_FIT = (
    "Synapse does not start with the module. Install a release of synapse_msc3881 that supports "
    "this Synapse, or take the module out of homeserver.yaml."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `check`."""
    parser.epilog = _EPILOG
    add_shared_arguments(parser)
    parser.add_argument(
        "-w",
        "--worker",
        dest="workers",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATH",
        help="a worker's own file, or a directory of them: a process that is started with the "
        "files of -c and then this one. A file with `server_name` is taken as the whole config "
        "of its worker",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "-q", "--quiet", action="store_true", help="only the verdict, and what was found"
    )
    length.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="with each part of Synapse that the module relies on, also where all fit",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check a deployment and show what was found.

    Returns:
        0 if there is no problem, otherwise 1.
    """
    from synapse_msc3881.admin.report import as_json, show  # noqa: PLC0415
    from synapse_msc3881.admin.table import Screen, ScreenGoneError  # noqa: PLC0415

    report = examine(arguments.config, arguments.workers)
    with contextlib.suppress(ScreenGoneError):  # Nobody is left to be told, as after `| head`.
        if arguments.json:
            Screen().line(as_json(report))
        else:
            show(report, Screen(), quiet=arguments.quiet, verbose=arguments.verbose)
    return 1 if report.problems else 0


def examine(config: list[str], workers: list[str]) -> Report:
    """Check everything.

    Args:
        config: what the main process, or the one process to check, is started with.
        workers: the files of workers, or directories of them.
    """
    from synapse_msc3881.admin.report import Report, problem  # noqa: PLC0415

    synapse = _synapse_version()
    report = Report(
        module_version=__version__,
        synapse_version=synapse,
        synapse_tested=synapse in TESTED_VERSIONS,
        python=f"Python {sys.version.split()[0]}",
    )
    _judge_version(report)
    _judge_place(report)
    try:
        _examine_seams(report)
        _examine_deployment(report, config, workers)
    except ImportError as error:
        # From `seams` or something that imports it. The message names what is missing.
        report.findings.append(
            problem("Synapse", str(error), "Nothing else could be checked without it.")
        )
    return report


def _examine_seams(report: Report) -> None:
    from synapse_msc3881 import seams  # noqa: PLC0415
    from synapse_msc3881.admin.report import note, problem  # noqa: PLC0415
    from synapse_msc3881.seams import process_config  # noqa: PLC0415
    from synapse_msc3881.seams.declaring import inspect_each  # noqa: PLC0415

    for status in _compared(report, seams.SEAMS, seams.inspect_seams()):
        report.findings.append(problem(status.seam.where, _what(status), _DOES_NOT_FIT))
    for status in _compared(report, process_config.SEAMS, inspect_each(process_config.SEAMS)):
        what = f"{_what(status)}. Only this command needs it"
        report.findings.append(note(status.seam.where, what))


def _compared(
    report: Report, seams: Sequence[Declared], statuses: Sequence[SeamStatus]
) -> Iterator[SeamStatus]:
    """List the seams in the report; returns those that are not as they should be."""
    from synapse_msc3881.admin.report import SeamReport  # noqa: PLC0415

    found = {status.seam: status for status in statuses}
    for seam in seams:
        status = found.get(seam)
        trouble = status.problem if status else None
        state = "startup" if status is None else "bad" if trouble else "ok"
        report.seams.append(SeamReport(seam.where, seam.since, seam.relies_on, state, trouble))
        if status and trouble:
            yield status


def _what(status: SeamStatus) -> str:
    return f"{status.problem}.\nThe module relies on this: {status.seam.relies_on}"


def _examine_deployment(report: Report, config: list[str], workers: list[str]) -> None:
    from synapse_msc3881.admin import database  # noqa: PLC0415
    from synapse_msc3881.admin.processes import Deployment  # noqa: PLC0415
    from synapse_msc3881.admin.redaction import Secrets  # noqa: PLC0415
    from synapse_msc3881.admin.report import problem  # noqa: PLC0415
    from synapse_msc3881.seams import TABLES  # noqa: PLC0415

    secrets = Secrets()
    deployment = Deployment(secrets)
    deployment.add(config)
    deployment.add_workers(workers, config)
    deployment.finish()
    report.processes = [process.report for process in deployment.processes]
    report.findings += deployment.findings

    configs = [process.config for process in deployment.processes if process.config is not None]
    sections = [one.database for one in configs if one.database is not None]
    if sections:
        report.database, findings, statuses = database.look(sections[0], secrets)
        report.findings += findings
        for status in _compared(report, TABLES, statuses):
            report.findings.append(problem(status.seam.where, _what(status), _DOES_NOT_FIT))
    elif configs:
        report.findings.append(
            problem(" ".join(config), "names no database", "Synapse does not start without one.")
        )


# --- Versions -----------------------------------------------------------------------------------


def _synapse_version() -> str | None:
    try:
        return importlib.metadata.version("matrix-synapse")
    except importlib.metadata.PackageNotFoundError:
        return None


def _judge_version(report: Report) -> None:
    from synapse_msc3881.admin.report import note, problem  # noqa: PLC0415

    if report.synapse_tested:
        return
    tested = f"this release was tested on {TESTED}"
    oldest, newest = (_numbers(version) for version in (TESTED_VERSIONS[0], TESTED_VERSIONS[-1]))
    found = _numbers(report.synapse_version or "")
    where = f"Synapse {report.synapse_version or 'of an unknown version'}"
    if found and found < oldest:
        report.findings.append(
            problem(
                where, f"too old: {tested}", f"Upgrade Synapse to {TESTED_VERSIONS[0]} at least."
            )
        )
    elif found and oldest < found < newest:
        report.findings.append(note(where, f"not tested, but between versions that are: {tested}"))
    else:
        report.findings.append(
            note(
                where,
                f"not tested: {tested}",
                "What the module relies on was compared, see the table. Try it before you rely "
                "on it, or look for a newer release of synapse_msc3881.",
            )
        )


def _judge_place(report: Report) -> None:
    """Find out whether Synapse would find this package too, or only we do, in this directory."""
    from synapse_msc3881.admin.report import problem  # noqa: PLC0415

    # `python -m` looks first in the directory that it is run in.
    path = sys.path if getattr(sys.flags, "safe_path", False) else sys.path[1:]
    if PathFinder.find_spec("synapse_msc3881", path) is None:
        report.findings.append(
            problem(
                "synapse_msc3881",
                f"it is not installed for {sys.executable}; it was found because this command runs "
                f"in {Path.cwd()}",
                f"{sys.executable} -m pip install {Path.cwd()}",
            )
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The first numbers of a version, for comparing it; empty if there are none."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
