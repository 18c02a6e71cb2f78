"""How do many clients share a server, so that one who asks much never holds up one who asks little?

A client is an address (of IPv6 its /64, which one machine has whole): behind a proxy the one that the proxy names.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from starlette.types import Scope

Item = TypeVar("Item")


def client_of(scope: Scope) -> str:
    """Whose request this is; a mark that says nothing of the address."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.version == 6:
            host = str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        pass  # a test's client, or a socket file
    return hashlib.sha256(host.encode()).hexdigest()[:16]


class FairQueue(Generic[Item]):
    """What waits, at most `max_items`; clients take turns, each one's own in the order they came. Not thread-safe."""

    def __init__(self, max_items: int) -> None:
        self.max_items = max_items
        self._items: dict[str, list[Item]] = {}  # who is first has the next turn

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def count(self, client: str) -> int:
        return len(self._items.get(client, ()))

    def first(self, client: str) -> Item:
        """What this client, of which something waits, has waiting longest."""
        return self._items[client][0]

    @property
    def longest(self) -> str | None:
        """Who has most waiting."""
        return max(self._items, key=self.count, default=None)

    def has_room(self, client: str) -> bool:
        """Whether one more of this client may wait: at the worst in place of the newest of one who has more than it."""
        return len(self) < self.max_items or self.count(self.longest or "") > self.count(client) + 1

    def put(self, client: str, item: Item) -> Item | None:
        """Let an item wait -> what had to leave for it."""
        assert self.has_room(client)
        dropped = None
        if len(self) >= self.max_items:
            dropped = self._pop(self.longest or "", -1)
        self._items.setdefault(client, []).append(item)
        return dropped

    def take(self, may: Callable[[str], bool] = lambda _: True) -> Item | None:
        """The next item of the next client that may have a turn."""
        for client in list(self._items):
            if may(client):
                item = self._pop(client, 0)
                if client in self._items:
                    self._items[client] = self._items.pop(client)  # behind the others
                return item
        return None

    def remove(self, item: Item) -> None:
        """Take it out, if it still waits."""
        for client, items in list(self._items.items()):
            if item in items:
                self._pop(client, items.index(item))

    def all_items(self) -> list[Item]:
        return [item for items in self._items.values() for item in items]

    def _pop(self, client: str, place: int) -> Item:
        item = self._items[client].pop(place)
        if not self._items[client]:
            del self._items[client]
        return item


class ClientUse:
    """Who asked lately, and how much was done for each; half of it is forgotten every `seconds`. Not thread-safe."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._found: dict[str, tuple[float, float]] = {}  # when, how much; whoever was noted last is last

    def note(self, client: str, amount: float = 0) -> None:
        used = self.of(client) + amount
        self._found.pop(client, None)
        self._found[client] = (time.monotonic(), used)

    def of(self, client: str) -> float:
        since, used = self._found.get(client, (0.0, 0.0))
        return used * 0.5 ** ((time.monotonic() - since) / self.seconds) if used else 0.0

    def __len__(self) -> int:
        """Who was noted within the last `seconds`; the others are forgotten."""
        oldest = time.monotonic() - self.seconds
        while self._found and next(iter(self._found.values()))[0] < oldest:
            del self._found[next(iter(self._found))]
        return len(self._found)


class FairSlots:
    """Places for work; each client is in line for one at a time, so a second client never waits for a first's tenth."""

    def __init__(self, num_slots: int) -> None:
        self._slots = asyncio.Semaphore(num_slots)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        own = self._own.get(client) or asyncio.Semaphore(1)
        self._own[client] = own
        async with own, self._slots:
            yield
