# SPDX-License-Identifier: AGPL-3.0-or-later
"""The echo rule (specification 1): whatever came before, a request does what its client meant."""

from collections.abc import Callable
from typing import Any

import attr
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881 import seams
from synapse_msc3881.delivery.pushers import TaggedPusherConfig
from synapse_msc3881.rest.pushers import (
    AS_READ,
    ENABLED,
    PROFILE_TAGS,
    format_pusher,
    parse_set_pusher,
)

JsonDict = dict[str, Any]

NEW: JsonDict = {
    "kind": "http",
    "app_id": "app",
    "pushkey": "key",
    "app_display_name": "A client",
    "device_display_name": "A device",
    "lang": "en",
    "data": {"url": "http://localhost/_matrix/push/v1/notify"},
}

TAGS = st.lists(st.sampled_from(["global", "phone", "desk"]), min_size=1, max_size=3, unique=True)
VALUES = {ENABLED: st.booleans(), PROFILE_TAGS: TAGS}


class Server:
    """One pusher, or none yet, and what the server does with a request."""

    def __init__(self, keep_omitted: bool = False) -> None:
        self.keep_omitted = keep_omitted
        self.stored: seams.PusherConfig | None = None

    def set(self, body: JsonDict) -> None:
        change = parse_set_pusher(body, self.stored, 10, self.keep_omitted)
        native: JsonDict = {
            "id": 1,
            "user_name": "@alice:example.org",
            "device_id": "PHONE",
            "ts": 0,
            "last_stream_ordering": 0,
            "last_success": None,
            "failing_since": None,
            "access_token": None,
        }
        known = {field.name for field in attr.fields(seams.PusherConfig)}
        self.stored = TaggedPusherConfig(
            **{name: value for name, value in native.items() if name in known},
            **change.fields,
            enabled=change.enabled,
            profile_tags=change.profile_tags,
        )

    def get(self) -> JsonDict:
        assert self.stored is not None
        return format_pusher(self.stored)


#: How a client says that a field is to have a value, given the pusher as it read it, at some time.
FORMS: dict[str, Callable[[JsonDict, tuple[str, str], Any], JsonDict]] = {
    "one name changed in what it read, the unstable one": lambda read, names, value: {
        **read,
        names[1]: value,
    },
    "the stable one": lambda read, names, value: {**read, names[0]: value},
    "both names": lambda read, names, value: {**read, **dict.fromkeys(names, value)},
    "the other name left out": lambda read, names, value: {
        **{name: was for name, was in read.items() if name not in names},
        names[0]: value,
    },
    "built anew, with the unstable name": lambda _, names, value: {**NEW, names[1]: value},
    "built anew, with the stable name": lambda _, names, value: {**NEW, names[0]: value},
    # As clients that copy the fields that they know, and change the name that all of them write.
    "without what was read": lambda read, names, value: {
        **{name: was for name, was in read.items() if name != AS_READ},
        names[1]: value,
    },
}


@given(data=st.data(), keep_omitted=st.booleans())
def test_any_sequence_of_requests_ends_in_what_the_last_one_meant(
    data: st.DataObject, keep_omitted: bool
) -> None:
    """From several clients: each reads at times, and writes what it likes, once or repeatedly."""
    server = Server(keep_omitted)
    server.set(NEW)
    lists = [server.get()] * 3
    requests: list[tuple[JsonDict, tuple[str, str], Any]] = []
    for _ in range(data.draw(st.integers(1, 12))):
        client = data.draw(st.integers(0, 2))
        if data.draw(st.booleans()):
            lists[client] = server.get()
        is_repeat: bool = data.draw(st.booleans())
        if is_repeat and requests:  # as a proxy does, or a user who taps again
            body, names, value = requests[data.draw(st.integers(0, len(requests) - 1))]
        else:
            names = data.draw(st.sampled_from([ENABLED, PROFILE_TAGS]))
            value = data.draw(VALUES[names])
            form = FORMS[data.draw(st.sampled_from(sorted(FORMS)))]
            body = form(lists[client], names, value)
            requests.append((body, names, value))
        for _ in range(data.draw(st.integers(1, 3))):
            server.set(body)
            shown = server.get()
            assert [shown[name] for name in names] == [value, value], body


@given(data=st.data())
def test_a_change_of_one_field_leaves_the_other_as_its_client_read_it(data: st.DataObject) -> None:
    server = Server()
    server.set({**NEW, "enabled": data.draw(st.booleans()), "profile_tags": data.draw(TAGS)})
    before = server.get()
    names, other = data.draw(st.permutations([ENABLED, PROFILE_TAGS]))
    value = data.draw(VALUES[names])
    server.set({**before, data.draw(st.sampled_from(names)): value})
    after = server.get()
    assert (after[names[0]], after[other[0]]) == (value, before[other[0]])


@given(data=st.data())
def test_what_a_request_means_does_not_depend_on_what_is_stored(data: st.DataObject) -> None:
    """But for what it omits, where that is kept."""
    body = dict(NEW)
    for names, values in VALUES.items():
        for name in data.draw(st.sampled_from([names, names[:1], names[1:]])):
            body[name] = data.draw(values)
    if data.draw(st.booleans()):
        body[AS_READ] = {"enabled": data.draw(st.booleans()), "profile_tags": data.draw(TAGS)}
    fresh, other = Server(), Server()
    other.set({**NEW, "enabled": data.draw(st.booleans()), "profile_tags": data.draw(TAGS)})
    fresh.set(body)
    other.set(body)
    assert fresh.get() == other.get()


def test_matrix_js_sdk_switches_a_pusher_off_and_on() -> None:
    """`cli.setPusher({...pusher, "org.matrix.msc3881.enabled": enabled})`."""
    server = Server()
    server.set({**NEW, "profile_tags": ["phone"]})
    for enabled in (False, True, False, False):
        server.set({**server.get(), "org.matrix.msc3881.enabled": enabled})
        assert (server.get()["enabled"], server.get()["profile_tags"]) == (enabled, ["phone"])
