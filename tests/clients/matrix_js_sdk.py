# SPDX-License-Identifier: AGPL-3.0-or-later
"""matrix-js-sdk, in a process of Node that js/sessions.mjs runs in."""

import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.client import JsonDict
from tests.clients.libraries import Action, Ring, ring_of
from tests.harness.node import node
from tests.harness.waiting import wait_until

DIRECTORY = Path(__file__).parent / "js"
INSTALLED = DIRECTORY / "node_modules" / "matrix-js-sdk" / "package.json"


def version() -> str | None:
    """The version that is installed, None for none."""
    if not INSTALLED.exists():
        return None
    found: str = json.loads(INSTALLED.read_text(encoding="utf-8"))["version"]
    return found


class JsError(Exception):
    """The SDK's answer to a command was an error."""

    def __init__(self, message: str, status: int | None, errcode: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.errcode = errcode


class Node:
    """A process of Node with sessions in it."""

    def __init__(self, log_file: Path) -> None:
        # Pip's, if there is one: the newest SDKs do not run on older ones.
        program = node()
        assert program is not None, "there is no Node; `make test-js` installs one"
        self._log_file = log_file
        with log_file.open("w") as log:
            self._process = subprocess.Popen(
                [program, "sessions.mjs"],
                cwd=DIRECTORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )

    def tell(self, session: str, command: str, *arguments: Any) -> Any:
        """Have a session do something; raises JsError where it cannot."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"session": session, "command": command, "arguments": arguments}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"Node has ended: {self._log_file.read_text()[-3000:]}"
        answer = json.loads(line)
        if "error" in answer:
            raise JsError(**answer["error"])
        return answer["result"]

    def close(self) -> None:
        self._process.communicate(timeout=60)


class JsSession:
    """A session of matrix-js-sdk."""

    def __init__(self, node: Node, name: str, device_id: str) -> None:
        self.device_id = device_id
        self._node = node
        self._name = name
        self._rules: JsonDict | None = None

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of `MatrixClient`."""
        return self._node.tell(self._name, "call", method, *arguments)

    def sent(self) -> list[JsonDict]:
        """What the SDK has sent since the last look: method, path and body."""
        sent: list[JsonDict] = self._node.tell(self._name, "sent")
        return sent

    def set_pusher(self, pusher: JsonDict) -> None:
        self.call("setPusher", pusher)

    def get_pushers(self) -> list[JsonDict]:
        pushers: list[JsonDict] = self.call("getPushers")["pushers"]
        return pushers

    def put_rule(self, scope: str, kind: str, rule_id: str, body: JsonDict) -> None:
        self.call("addPushRule", scope, kind, rule_id, body)

    def set_rule_enabled(self, scope: str, kind: str, rule_id: str, enabled: bool) -> None:
        self.call("setPushRuleEnabled", scope, kind, rule_id, enabled)

    def set_rule_actions(
        self, scope: str, kind: str, rule_id: str, actions: Sequence[Action]
    ) -> None:
        self.call("setPushRuleActions", scope, kind, rule_id, list(actions))

    def delete_rule(self, scope: str, kind: str, rule_id: str) -> None:
        self.call("deletePushRule", scope, kind, rule_id)

    def next_push_rules(self) -> JsonDict:
        known = self._rules
        if known is None:
            self._node.tell(self._name, "start")
        wait_until(lambda: self._held_rules() != known, "other push rules by sync")
        self._rules = self._held_rules()
        return self._rules

    def sync_to(self, room_id: str, event_id: str) -> JsonDict:
        if self._rules is None:
            self.next_push_rules()
        self._actions_for(room_id, event_id)
        self._rules = self._held_rules()
        return self._rules

    def ring_for(self, room_id: str, event_id: str) -> Ring:
        actions = self._actions_for(room_id, event_id)
        return ring_of(actions["tweaks"]) if actions.get("notify") else None

    def close(self) -> None:
        """Nothing: it ends with its process."""

    def _actions_for(self, room_id: str, event_id: str) -> JsonDict:
        found: list[JsonDict] = []

        def is_there() -> bool:
            actions = self._node.tell(self._name, "actionsFor", room_id, event_id)
            found.extend([] if actions is None else [actions])
            return bool(found)

        wait_until(is_there, "the event by sync")
        return found[0]

    def _held_rules(self) -> JsonDict:
        rules: JsonDict = self._node.tell(self._name, "pushRules")
        return rules


class MatrixJsSdk:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._names = map(str, itertools.count())

    def login(self, base_url: str, user_id: str, password: str, device_id: str) -> JsSession:
        name = next(self._names)
        self._node.tell(name, "login", base_url, user_id, password, device_id)
        return JsSession(self._node, name, device_id)
