# SPDX-License-Identifier: AGPL-3.0-or-later
"""Arguments that the commands share. Does not need Synapse, so that `check` always runs."""

import argparse


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `config`, a list of paths, and `json`."""
    parser.add_argument(
        "-c",
        "--config-path",
        dest="config",
        action="append",
        required=True,
        metavar="PATH",
        help="a config file, or a directory of them, just as Synapse is started with it; can be "
        "given more than once",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
