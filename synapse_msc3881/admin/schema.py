# SPDX-License-Identifier: AGPL-3.0-or-later
"""`schema`: creates the module's tables in a new database, before `synapse_port_db` fills it.

Synapse's port from SQLite to PostgreSQL copies the tables that exist in both databases. A new one
has ours only once the module has run on it, which it cannot do before the port.
"""

from __future__ import annotations

import argparse
import json
import sys

from synapse_msc3881.admin.arguments import add_shared_arguments
from synapse_msc3881.admin.database import CannotReadError, make_tables
from synapse_msc3881.admin.processes import Deployment
from synapse_msc3881.admin.redaction import Secrets
from synapse_msc3881.admin.table import Screen

_EPILOG = """\
Moving from SQLite to PostgreSQL, with Synapse stopped:
  python -m synapse_msc3881 schema -c homeserver-postgres.yaml
  synapse_port_db --sqlite-database homeserver.db --postgres-config homeserver-postgres.yaml

Exit status: 0 the tables are there, 1 a problem was found, 2 wrong usage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `schema`."""
    parser.epilog = _EPILOG
    add_shared_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Create the tables, unless they exist.

    Returns:
        0 if they exist now, otherwise 1.
    """
    secrets = Secrets()
    deployment = Deployment(secrets)
    deployment.add(arguments.config)
    config = deployment.processes[0].config
    if config is None:
        return _refuse(arguments, "\n".join(finding.what for finding in deployment.findings))
    try:
        where, made = make_tables(config.database or {}, secrets)
    except CannotReadError as error:
        return _refuse(arguments, f"{error}\n{error.remedy}")
    if arguments.json:
        Screen().line(json.dumps({"ok": True, "database": where, "made": made}))
    else:
        what = f"made {', '.join(made)}" if made else "the module's tables were there already"
        Screen().line(f"{where[0].upper()}{where[1:]}: {what}.", "green")
    return 0


def _refuse(arguments: argparse.Namespace, why: str) -> int:
    if arguments.json:
        Screen().line(json.dumps({"ok": False, "problem": why}))
    else:
        print(why, file=sys.stderr)
    return 1
