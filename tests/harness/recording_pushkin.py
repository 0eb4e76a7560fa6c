# SPDX-License-Identifier: AGPL-3.0-or-later
"""A pushkin for Sygnal, which runs in Sygnal's environment: hands on what Sygnal made of a push.

Sygnal's own pushkins end at Apple, at Google or in a browser; what it reads of tweaks goes to the
first two alone. `url` in the app's configuration is where this one ends.
"""

import json
import urllib.request
from typing import Any

from sygnal.notifications import Pushkin


class RecordingPushkin(Pushkin):
    async def dispatch_notification(self, n: Any, device: Any, context: Any) -> list[str]:
        del context
        read = {
            "pushkey": device.pushkey,
            "event_id": n.event_id,
            "room_id": n.room_id,
            "content": n.content,
            "prio": n.prio,
            "sound": device.tweaks.sound,
            "unread": n.counts.unread,
        }
        request = urllib.request.Request(
            self.cfg["url"], json.dumps(read).encode(), {"Content-Type": "application/json"}
        )
        # Nothing else waits meanwhile, in a Sygnal of a test.
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: ASYNC210
            rejected: list[str] = json.load(answer)["rejected"]
        return rejected
