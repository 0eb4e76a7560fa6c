# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the module costs, against a vanilla Synapse in the same run: `make bench`.

Each measurement is a file here. Each compares real Synapse processes on copies of one database,
by turns, after a warm-up; what it finds goes into one JSON file, and the tables and charts of
docs/performance.md are made from that file. Nothing here is a timed test: what CI runs are the
counts, and all the measurements at a tiny size.
"""
