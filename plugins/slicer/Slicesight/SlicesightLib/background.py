"""How does work run beside the window without freezing it, where the window's thread must do all that is shown?

A thread works and puts news into a queue; a timer of the window's thread takes them out, as `slicer.util` itself does
for a process that it starts. Python's lock is the reason for the pause in each look: inside Slicer the window's thread
holds it between events, and the worker goes on only while it is given up (na-mic.org, Project Week 2013, Threaded
SimpleITK Modules). Python 3.9 or newer.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from .scan_file import ViewerError

LOOK_EVERY_MS = 40
PAUSE_S = 0.02
Report = Callable[..., None]


class Background:
    """One piece of work at a time.

    Args:
        schedule: calls a function in the window's thread after so many milliseconds, as `qt.QTimer.singleShot` does.
    """

    def __init__(self, schedule: Callable[[int, Callable[[], None]], Any]) -> None:
        self._schedule = schedule
        self._news: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()
        self._stop = threading.Event()
        self.is_busy = False

    def start(
        self,
        work: Callable[[], Any],
        *,
        on_done: Callable[[Any], None],
        on_refused: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        """Run `work` in a thread; what it gives goes to `on_done`, one line of what was wrong to `on_refused`.

        A mistake of our own is printed whole, and told in one line as well. `on_end` comes last in any case.

        Raises:
            ViewerError: something is still at work.
        """
        if self.is_busy:
            raise ViewerError("the last question is still being answered; wait for it, or stop it.")
        self.is_busy = True
        self._stop.clear()

        def run() -> None:
            try:
                self._news.put((on_done, (work(),)))
            except ViewerError as error:
                self._news.put((on_refused, (str(error),)))
            except Exception as error:  # a thread's own end would be seen by nobody
                traceback.print_exc()
                self._news.put((on_refused, (f"{type(error).__name__}: {error}; the console says where.",)))
            self._news.put((self._end, (on_end,)))

        threading.Thread(target=run, daemon=True).start()
        self._schedule(LOOK_EVERY_MS, self._look)

    def stop(self) -> None:
        """Ask the work to end; it says itself that it was called off."""
        self._stop.set()

    def is_stopped(self) -> bool:
        """For the work: whether it shall end."""
        return self._stop.is_set()

    def reporter(self, show: Callable[..., None]) -> Report:
        """For the work: a function that has `show` called in the window's thread."""
        return lambda *said: self._news.put((show, said))

    def _look(self) -> None:
        time.sleep(PAUSE_S)
        while not self._news.empty():
            show, said = self._news.get()
            show(*said)
        if self.is_busy:
            self._schedule(LOOK_EVERY_MS, self._look)

    def _end(self, on_end: Callable[[], None]) -> None:
        self.is_busy = False
        on_end()
