"""What a live session has received and its engine has not: audio, and commands between it."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

Command = TypeVar("Command")


class Inbox(Generic[Command]):
    """Audio and commands in the order in which they came, for one who puts and one who takes.

    Whoever puts waits with `wait_for_room` once there is more than `most_bytes`, so that memory
    stays bounded by that and one message.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: deque[bytearray | tuple[Command, int]] = deque()
        self._size = 0
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Tell whether there is more than should be."""
        return self._size > self._most_bytes

    def put_audio(self, audio: bytes) -> None:
        """Add audio behind what is there."""
        if self._entries and isinstance(self._entries[-1], bytearray):
            self._entries[-1] += audio
        elif audio:
            self._entries.append(bytearray(audio))
        self._count(len(audio))

    def put_command(self, command: Command, size: int) -> None:
        """Add a command, which took so many bytes."""
        self._entries.append((command, size))
        self._count(size)

    def drop_audio(self) -> int:
        """Forget the audio behind the last command; return its bytes."""
        if not (self._entries and isinstance(self._entries[-1], bytearray)):
            return 0
        dropped = len(self._entries.pop())
        self._count(-dropped)
        return dropped

    async def take(self, least: int, most: int, frame: int = 1) -> bytes | Command:
        """Return the next command, or the next audio: `least` to `most` bytes of it.

        Less only where a command follows. Audio is cut between frames of so many bytes; a part of
        one before a command waits for its rest behind that.
        """
        while not self._is_ready(max(least, frame)):
            self._arrived.clear()
            await self._arrived.wait()
        head = self._entries[0]
        if isinstance(head, bytearray) and len(head) < frame:
            head = self._pass_on(head)
        if isinstance(head, bytearray):
            return self._take_audio(head, min(len(head), most) // frame * frame)
        self._entries.popleft()
        self._count(-head[1])
        return head[0]

    async def wait_for_room(self) -> None:
        """Return once there is not too much."""
        while self.is_full:
            self._taken.clear()
            await self._taken.wait()

    def _is_ready(self, least: int) -> bool:
        if not self._entries:
            return False
        head = self._entries[0]
        return not isinstance(head, bytearray) or len(head) >= least or len(self._entries) > 1

    def _pass_on(self, part: bytearray) -> bytearray | tuple[Command, int]:
        """Put part of a frame behind the command that follows it; return that."""
        self._entries.popleft()
        command = self._entries.popleft()
        behind = self._entries[0] if self._entries else None
        if isinstance(behind, bytearray):
            behind[:0] = part
        else:
            self._entries.appendleft(part)
        self._entries.appendleft(command)
        return command

    def _take_audio(self, head: bytearray, size: int) -> bytes:
        audio = bytes(head[:size])
        del head[:size]
        if not head:
            self._entries.popleft()
        self._count(-len(audio))
        return audio

    def _count(self, change: int) -> None:
        self._size += change
        (self._arrived if change > 0 else self._taken).set()
