# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cascade against a model of it; see `tests.server.cascade_model`.

MODEL_SECONDS=600 pytest tests/server/test_model.py      runs longer, each time other rounds
MODEL_SEED=1234 pytest tests/server/test_model.py        runs these rounds again
"""

import os
import random
import time

from demo.gateway import Gateway
from tests.harness.deployment import Deployment
from tests.server.cascade_model import give_own_device, make_world

# Whoever looks for something new gives it time; the tests of a change are the same each time.
SECONDS = float(os.environ.get("MODEL_SECONDS") or 0)
ROUNDS = 15
SEED = random.randrange(2**32) if "MODEL_SECONDS" in os.environ else 3837


def test_the_cascade_is_that_of_the_model(deployment: Deployment, gateway: Gateway) -> None:
    seed = int(os.environ.get("MODEL_SEED") or SEED)
    print(f"MODEL_SEED={seed}")
    world = make_world(deployment, gateway, seed)
    for user in world.users[1:]:  # One has none.
        give_own_device(deployment, gateway, user)
    deadline = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < deadline if SECONDS else rounds < ROUNDS:
        world.round()
        rounds += 1
    # Whoever had no fence to wait for got nothing either.
    world.send_fence()
    world.check()
    print(f"{rounds} rounds")
    assert rounds
