# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is started and stopped, and runs in a `with`."""

import abc
from types import TracebackType

from typing_extensions import Self


class Running(abc.ABC):
    """Runs from `start()` (or `with`) to `stop()`."""

    @abc.abstractmethod
    def start(self) -> Self:
        """Return once it serves."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Return once it does no more."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
