"""Daemon threads that run small tasks: waiting for one never keeps a process from ending."""

from __future__ import annotations

import collections
import threading
import time
from typing import Callable, Optional

from .forksafe import ForkSafe

_IDLE = 5.0  # s after which a thread without work ends


class Pool(ForkSafe):
    """At most ``size`` threads, started when there is work. Tasks must not raise. Fork-safe: a child
    starts empty.
    """

    def __init__(self, size: int, name: str) -> None:
        super().__init__()
        self._size = size
        self._name = name
        self._renew()

    def _renew(self) -> None:
        self._tasks: collections.deque[Callable[[], object]] = collections.deque()
        self._urgent: collections.deque[Callable[[], object]] = collections.deque()
        lock = threading.Lock()
        self._condition = threading.Condition(lock)  # there is a task
        self._calm = threading.Condition(lock)  # no task runs
        self._threads = 0
        self._waiting = 0
        self._running = 0

    def _after_fork(self) -> None:
        self._renew()

    def submit(self, task: Callable[[], object], *, urgent: bool = False) -> None:
        """Queues a task; urgent ones come before all others."""
        with self._condition:
            (self._urgent if urgent else self._tasks).append(task)
            if self._waiting:
                self._condition.notify()
            elif self._threads < self._size:
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def cancel(self) -> None:
        """Forgets the tasks that no thread has begun."""
        with self._condition:
            self._tasks.clear()
            self._urgent.clear()

    def __len__(self) -> int:
        """Tasks waiting."""
        return len(self._tasks) + len(self._urgent)

    def _work(self) -> None:
        while True:
            task = self._take()
            if task is None:
                return
            task()
            with self._condition:
                self._running -= 1
                if not self._running:
                    self._calm.notify_all()

    def _take(self) -> Optional[Callable[[], object]]:
        with self._condition:
            while not self._tasks and not self._urgent:
                self._waiting += 1
                notified = self._condition.wait(_IDLE)
                self._waiting -= 1
                if not notified and not len(self):
                    self._threads -= 1
                    return None
            self._running += 1
            return self._urgent.popleft() if self._urgent else self._tasks.popleft()

    def finish(self, timeout: float) -> None:
        """Waits up to ``timeout`` s for the tasks that are running; call :meth:`cancel` before."""
        deadline = time.monotonic() + timeout
        with self._calm:
            while self._running and time.monotonic() < deadline:
                self._calm.wait(max(0.0, deadline - time.monotonic()))
