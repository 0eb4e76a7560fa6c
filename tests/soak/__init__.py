# SPDX-License-Identifier: AGPL-3.0-or-later
"""Load for a long time, with everything changing all the while: `make soak`.

Two loads run at once on the cluster. `tests.cluster.load` sends at an even rate, and knows which
pushes are due. `tests.soak.churn` changes rules, tags, pushers and devices at random, has gateways
fail, reads and redacts, and the model of the cascade says what is due. In the first part processes
are stopped and killed as well. In the second none is, and the memory of each is watched.
"""
