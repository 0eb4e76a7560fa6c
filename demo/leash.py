# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ties a child process to the life of its parent, then becomes the real command.

Run as a script: ``python leash.py PARENT_PID SIGNAL USER COMMAND…``. A script, and not a function
for ``preexec_fn``, because running Python between fork and exec is not safe in a parent that has
threads. It imports the standard library only, so that it starts fast and anywhere.

On Linux the kernel then sends SIGNAL when the *thread* that started the child ends. So start
children from a thread that lives as long as they should: the main thread.
Elsewhere this only runs the command.
"""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def leashed(
    command: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL, user: str = ""
) -> list[str]:
    """The command line that runs `command` tied to the calling process.

    Args:
        command: what to run, the program by its full path.
        death_signal: what the command gets when its parent is gone.
        user: the system user to become first, "" to stay the same.
    """
    # `-I -S` skips site-packages: the leash needs none, the command starts afresh without them.
    leash = [sys.executable, "-I", "-S", __file__]
    return [*leash, str(os.getpid()), death_signal.name, user, *command]


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _die_with_parent(parent_pid: int, death_signal: signal.Signals) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    # The parent may have gone before the kernel knew of our wish.
    if os.getppid() != parent_pid:
        sys.exit("the process that started this one is gone")


def _main(argv: Sequence[str]) -> None:
    parent_pid, death_signal, user, *command = argv
    # In this order: changing the user makes the kernel forget the wish.
    if user:
        _become(user)
    _die_with_parent(int(parent_pid), signal.Signals[death_signal])
    os.execv(command[0], command)


if __name__ == "__main__":
    _main(sys.argv[1:])
