# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shows the module at work on a throwaway homeserver: `make demo`, or
`python -m demo`.

Looks at Python and Synapse first, before it imports anything that needs them.
"""

import importlib.metadata
import re
import sys
from typing import NoReturn

OLDEST_PYTHON = (3, 10)
OLDEST_SYNAPSE = (1, 120)


def check_python() -> None:
    """End with a message for a human if this Python or its Synapse will not do."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        _refuse(f"Python {_dotted(OLDEST_PYTHON)} or newer is needed; {_this_python()}.")
    try:
        version = importlib.metadata.version("matrix-synapse")
    except importlib.metadata.PackageNotFoundError:
        _refuse(
            f"Synapse is not installed here; {_this_python()}. "
            "`make demo` sets up all that is needed; or try: pip install matrix-synapse"
        )
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST_SYNAPSE:
        _refuse(
            f"Synapse {_dotted(OLDEST_SYNAPSE)} or newer is needed; "
            f"{_this_python()}, with Synapse {version}."
        )


def _refuse(problem: str) -> NoReturn:
    sys.exit(f"demo: {problem}")


def _this_python() -> str:
    return f"this is Python {sys.version.split()[0]} at {sys.executable}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def main() -> int:
    """Run the demo and return its exit status."""
    check_python()
    from demo.run import main as run  # noqa: PLC0415

    return run()


if __name__ == "__main__":
    sys.exit(main())
