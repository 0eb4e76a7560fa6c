# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a server's ``/metrics`` says."""

from collections.abc import Mapping

import attr
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.deployment import Deployment

OURS = "synapse_msc3881_"
DECISIONS = f"{OURS}push_decisions_total"
PUSHER_STATES = f"{OURS}pushers"

#: How long to wait for a count of what is stored: the next one waits a hundred times as long as the
#: last one took, which is half a minute where a busy machine took a third of a second.
COUNTING_SECONDS = 300.0

Labels = Mapping[str, str]


@attr.s(auto_attribs=True, frozen=True)
class Sample:
    name: str
    labels: Labels
    value: float


def scrape(deployment: Deployment) -> list[Sample]:
    return parse(deployment.metrics())


def parse(text: str) -> list[Sample]:
    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def value(samples: list[Sample], name: str, /, **labels: str) -> float:
    """The sum of all samples that have these labels."""
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


# --- The metrics --------------------------------------------------------------------------------
