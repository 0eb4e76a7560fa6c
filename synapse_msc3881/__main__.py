# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands for admins: `python -m synapse_msc3881 check …`.

Checks Python and Synapse first, before it imports anything that needs them.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from synapse_msc3881 import __version__

#: The commands, and what each is for. `synapse_msc3881.admin.<name>` has `add_arguments(parser)`
#: and `run(arguments)`, which returns the exit status.
COMMANDS: Mapping[str, str] = {
    "check": "find out whether the module is installed and configured as it has to be",
    "explain": "tell why a user's devices rang for an event, or did not",
    "page": "write the users' page into a directory, for another web server than Synapse",
    "schema": "make the module's tables in a new database, before synapse_port_db fills it",
}

OLDEST_PYTHON = (3, 10)

_NO_SYNAPSE = """\
Synapse is not installed for {executable}.
Run this with the Python that runs Synapse, for example
  /opt/venvs/matrix-synapse/bin/python -m synapse_msc3881 …   (Debian packages of matrix.org)
  docker exec CONTAINER python -m synapse_msc3881 …           (Docker)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status: 0 if all is well, 1 if a problem was found. argparse itself exits with 2
        on bad usage.
    """
    argv = sys.argv[1:] if argv is None else argv
    if problem := _unfit():
        print(problem, file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="python -m synapse_msc3881")
    parser.add_argument("--version", action="version", version=f"synapse_msc3881 {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    # Only the requested one is imported: on a Synapse that does not fit, `check` must run where
    # others cannot.
    asked = next((argument for argument in argv if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == asked:
            command: Any = importlib.import_module(f"synapse_msc3881.admin.{name}")
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _unfit() -> str | None:
    if sys.version_info[:2] < OLDEST_PYTHON:
        return f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}."
    if importlib.util.find_spec("synapse") is None:
        return _NO_SYNAPSE.format(executable=sys.executable)
    return None


if __name__ == "__main__":
    sys.exit(main())
