"""Frames over a stream of bytes: what both ends of a connection share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Final, cast

from memoryd.protocol import wire

FRAMES_AT_ONCE: Final = 64  # then others have their turn


class FrameStream(asyncio.Protocol, ABC):
    """One end of a connection. Takes frames as long as it has room, and writes as long as the other end reads."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._decoder = wire.Decoder()
        self._is_reading = True
        self._flowing = asyncio.Event()
        self._flowing.set()

    # --- what an end is made of ---

    @abstractmethod
    def take(self, frame: wire.Frame) -> None:
        """Handle a frame. Raises for one after which the connection cannot go on."""

    @property
    def has_room(self) -> bool:
        """Whether the next frame may be taken. Whoever makes room calls `take_more`."""
        return True

    @abstractmethod
    def failed(self, error: Exception) -> None:
        """Close the connection: a frame was wrong or could not be taken."""

    # --- reading ---

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        self.take_more()

    def take_more(self) -> None:
        """Take what has arrived as far as there is room; without room the other end has to wait."""
        is_all = False  # whether nothing more is there to take
        try:
            for _ in range(FRAMES_AT_ONCE):
                if self._transport.is_closing() or not self.has_room:
                    break
                frame = self._decoder.take()
                if is_all := frame is None:
                    break
                self.take(frame)
        except Exception as error:  # noqa: BLE001 - which kinds there are is the end's affair
            self.failed(error)
        if not self._transport.is_closing():
            self._read_on(is_all)

    def _read_on(self, is_all: bool) -> None:  # noqa: FBT001 - private
        if is_all != self._is_reading:
            self._is_reading = is_all
            (self._transport.resume_reading if is_all else self._transport.pause_reading)()
        if not is_all and self.has_room:
            asyncio.get_running_loop().call_soon(self.take_more)

    # --- writing ---

    async def send(self, kind: str, correlation: int, deadline_ms: int, body: dict[str, Any]) -> None:
        """Write a frame, once the other end has read enough. Raises TooLarge or ConnectionResetError."""
        frame = wire.encode_frame(kind, correlation, deadline_ms, body)
        while not self._flowing.is_set():
            await self._flowing.wait()
        if self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of a stream socket

    def connection_lost(self, exc: Exception | None) -> None:
        self._flowing.set()

    def pause_writing(self) -> None:
        self._flowing.clear()

    def resume_writing(self) -> None:
        self._flowing.set()
