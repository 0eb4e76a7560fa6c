# SPDX-License-Identifier: AGPL-3.0-or-later
"""The versions of Synapse that this release was tested on, and what to say to others."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

#: Oldest first: those in tests/requirements/. docs/admin-guide.md says how they were tested.
TESTED_VERSIONS = ("1.120.2", "1.127.1", "1.135.2", "1.140.0", "1.147.1", "1.155.0", "1.163.2")

#: The same, for a sentence.
TESTED = f"{', '.join(TESTED_VERSIONS[:-1])} and {TESTED_VERSIONS[-1]}"


def does_not_fit(problems: Sequence[str]) -> str:
    """A message for the admin.

    Args:
        problems: what is missing or has another shape; each names it.
    """
    try:
        version = importlib.metadata.version("matrix-synapse")
    except importlib.metadata.PackageNotFoundError:
        version = "(unknown version)"
    found = "\n".join(f"  - {problem}" for problem in problems)
    return (
        f"synapse_msc3881 does not fit Synapse {version}:\n{found}\n"
        f"This release was tested on Synapse {TESTED}. Install a release of synapse_msc3881 that "
        "supports yours, or take the module out of homeserver.yaml."
    )
