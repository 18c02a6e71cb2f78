"""Which scans in a folder that others write to are whole? Those of which no file has changed for a while.

A series counts as whole when neither the number, the names, the sizes nor the times of its files have changed for
`settle_seconds`, seen by this process: what a program copied with old times is waited for too. A scan that changes
afterwards is another one, and is given again when it is whole again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from slicesight.io.scan_tree import FoundScan, ScanFinder


class Inbox:
    """A folder that is looked at again and again."""

    def __init__(
        self, finder: ScanFinder, *, settle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.finder, self.settle_seconds, self._clock = finder, settle_seconds, clock
        self._since: dict[tuple[str, str], tuple[str, float]] = {}
        self._given: dict[tuple[str, str], str] = {}
        self.num_waiting = 0
        self.left_out: dict[str, int] = {}

    def whole(self) -> list[FoundScan]:
        """Scans that are whole now and were not given before as they are; looks at the folder once.

        Raises:
            InputError: the folder is not there.
        """
        found, now = self.finder.find(), self._clock()
        self.left_out = found.left_out
        present = {scan.key: scan for scan in found.scans}
        for seen in (self._since, self._given):
            for key in seen.keys() - present.keys():
                del seen[key]
        ready, self.num_waiting = [], 0
        for key, scan in present.items():
            if self._given.get(key) == scan.stamp:
                continue
            stamp, since = self._since.get(key, ("", now))
            if stamp != scan.stamp:
                self._since[key] = scan.stamp, now
                since = now
            if now - since < self.settle_seconds:
                self.num_waiting += 1
                continue
            self._given[key] = scan.stamp
            ready.append(scan)
        return ready
