# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds processes of Synapse that run from an environment without the module. Linux only.

A process belongs to this deployment if it was started with one of the given files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from synapse_msc3881.admin.report import Finding, problem

_PROC = Path("/proc")
_PACKAGE = "synapse_msc3881"


def find_without_module(files: Sequence[str], proc: Path = _PROC) -> Iterator[Finding]:
    """Name the running processes whose environment lacks the module.

    Args:
        files: the config files of the deployment.
        proc: where the kernel lists the processes. Whatever cannot be read there is skipped.
    """
    ours = {Path(file).resolve() for file in files}
    here = Path(sys.prefix).resolve()
    for directory in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            arguments = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
            cwd = (directory / "cwd").resolve()
        except OSError:
            continue
        environment = _environment(arguments)
        if environment is None or environment == here or not _runs(arguments, cwd, ours):
            continue
        if not _has_package(environment):
            python = environment / "bin" / "python"
            yield problem(
                f"process {directory.name}",
                f"it runs with this config from {environment}, where the module is not installed",
                f"{python} -m pip install … as for the others, and restart it.",
            )


def _environment(arguments: Sequence[str]) -> Path | None:
    """The environment of a Python process, according to the name of its interpreter."""
    python = Path(arguments[0])
    if not python.is_absolute() or not python.name.startswith("python"):
        return None
    # Not the interpreter that a link in a virtual environment points to.
    return python.parent.resolve().parent


def _runs(arguments: Sequence[str], cwd: Path, files: set[Path]) -> bool:
    """Whether a process is a Synapse, and reads one of the files."""
    if not any("synapse" in argument for argument in arguments[1:3]):
        return False
    named = {argument.rpartition("=")[2] for argument in arguments}
    return any((cwd / name).resolve() in files for name in named if name)


def _has_package(environment: Path) -> bool:
    packages = [*environment.glob("lib/python3*/*-packages")]
    return not packages or any(
        (directory / _PACKAGE).exists() or any(directory.glob(f"*{_PACKAGE}*"))
        for directory in packages
    )
