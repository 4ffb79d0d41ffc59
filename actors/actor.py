"""What every actor is: a handler of messages with four hooks, driven by one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memoryd.actors.context import Context


class Actor:
    """Handles one message at a time. A restart never reuses the object: its factory makes a new one."""

    async def started(self, ctx: Context) -> None:
        """Get ready; no message is handled before this returns."""

    async def handle(self, message: object, ctx: Context) -> object:
        """Handle a message; what is returned answers an ask."""
        raise NotImplementedError

    async def drained(self, ctx: Context) -> None:
        """Use the moment: no message waits."""

    async def stopping(self, ctx: Context) -> None:
        """Put things in order; called at every end that is not a crash."""

    async def closed(self) -> None:
        """Give back what the operating system holds; called at every end, after the tasks are gone."""
