# SPDX-License-Identifier: AGPL-3.0-or-later
"""The echo rule (specification 1): whatever came before, a request does what its client meant."""

from collections.abc import Callable
from typing import Any

import attr
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881 import seams
from synapse_msc3881.delivery.tagged_config import TaggedPusherConfig
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
        #: Whether the pusher's device has settings of its own.
        self.own = False
        self.stored: TaggedPusherConfig | None = None

    def set(self, body: JsonDict) -> None:
        change = parse_set_pusher(body, self._read(), 10, self.keep_omitted)
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
        stored = self._read()
        assert stored is not None
        return format_pusher(stored)

    def _read(self) -> seams.PusherConfig | None:
        return self.stored and attr.evolve(self.stored, device_has_own=self.own)


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


# --- A device with settings of its own (specification 9) ----------------------------------------

OWN_TAGS = ["PHONE"]


def own_server(keep_omitted: bool = False, tags: list[str] | None = None) -> Server:
    server = Server(keep_omitted)
    server.set(NEW if tags is None else {**NEW, "profile_tags": tags})
    server.own = True
    return server


def tags_once_off(server: Server) -> list[str]:
    server.own = False
    tags: list[str] = server.get()[PROFILE_TAGS[0]]
    return tags


def test_the_tags_that_hold_are_shown_and_nothing_is_chosen() -> None:
    server = own_server()
    shown = server.get()
    assert [shown[name] for name in PROFILE_TAGS] == [OWN_TAGS, OWN_TAGS]
    assert shown[AS_READ] == {"enabled": True, "profile_tags": OWN_TAGS, "own": True}
    assert tags_once_off(server) == ["global"]
    assert "own" not in server.get()[AS_READ]


@given(
    keep_omitted=st.booleans(),
    form=st.sampled_from(sorted(FORMS)),
    is_stale=st.booleans(),
    repeats=st.integers(1, 3),
)
def test_an_app_that_sends_back_what_it_read_chooses_no_tags(
    keep_omitted: bool, form: str, is_stale: bool, repeats: int
) -> None:
    """While the settings hold; and where it says what it read, also when they hold no more."""
    server = own_server(keep_omitted)
    body = FORMS[form](server.get(), ENABLED, False)
    if is_stale and AS_READ in body:
        server.own = False
    for _ in range(repeats):
        server.set(body)
    assert server.get()["enabled"] is False
    assert tags_once_off(server) == ["global"]


@given(keep_omitted=st.booleans(), name=st.sampled_from(PROFILE_TAGS))
def test_another_list_that_an_app_sends_holds(keep_omitted: bool, name: str) -> None:
    server = own_server(keep_omitted)
    server.set({**server.get(), name: ["PHONE", "global"]})
    assert server.get()[name] == ["PHONE", "global"]
    assert tags_once_off(server) == ["PHONE", "global"]


def test_a_list_that_was_chosen_before_stays_chosen() -> None:
    server = own_server(tags=OWN_TAGS)
    shown = server.get()
    assert shown[AS_READ] == {"enabled": True, "profile_tags": OWN_TAGS}
    server.set({**shown, ENABLED[1]: False})
    assert tags_once_off(server) == OWN_TAGS


def test_what_was_read_before_the_settings_were_switched_on_still_means_a_choice() -> None:
    server = own_server()
    server.own = False
    before = server.get()
    server.own = True
    server.set({**before, PROFILE_TAGS[1]: OWN_TAGS})
    assert tags_once_off(server) == OWN_TAGS


def test_a_choice_is_undone_by_omission_as_ever() -> None:
    server = own_server(tags=["desk"])
    assert server.get()[PROFILE_TAGS[0]] == ["desk"]
    server.set(NEW)
    assert server.get()[PROFILE_TAGS[0]] == OWN_TAGS
    assert tags_once_off(server) == ["global"]
