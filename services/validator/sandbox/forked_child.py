"""Work in a forked child that can be killed, for the offline check.

No line of its input may stall or end the check.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from services.validator.sandbox.frames import read_frame, write_frame
from services.validator.sandbox.process_limits import (
    allow_cpu_seconds,
    die_with_parent,
    limit_memory,
    read_cpu_seconds,
)
from shared.hardening import forbid_dumps

_LOOK_EVERY_SECONDS = 0.05


class ChildLost(Exception):
    """The child died over this request, or it was stuck and was killed."""


@dataclass(frozen=True)
class ChildLimits:
    """The limits of one request: processor time, wall time on a loaded machine, and memory."""

    cpu_seconds: float = 0.9
    wall_seconds: float = 10.0
    memory_bytes: int = 1 << 30


class ForkedChild:
    """Runs ``answer`` in a forked child, which is started when needed and again after it was lost.

    For single-threaded programs only: a fork copies no other thread.
    """

    def __init__(self, answer: Callable[[bytes], bytes], limits: ChildLimits | None = None) -> None:
        self._answer = answer
        self._limits = limits or ChildLimits()
        self._pid = 0

    def ask(self, request: bytes) -> bytes:
        """Return the answer. Raises ChildLost; the next request then gets a new child."""
        if not self._pid:
            self._fork()
        cpu_before = read_cpu_seconds(self._pid)
        began = time.monotonic()
        try:
            write_frame(self._requests, request)
            self._await_reply(cpu_before, began)
            reply = read_frame(self._replies)
        except OSError:
            reply = None
        if reply is None:
            self.close()
            raise ChildLost
        return reply

    def close(self) -> None:
        """Kill the child; harmless when there is none."""
        if not self._pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = 0
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()

    def _await_reply(self, cpu_before: float, began: float) -> None:
        limits = self._limits
        while not select.select([self._replies], [], [], _LOOK_EVERY_SECONDS)[0]:
            worked = read_cpu_seconds(self._pid) - cpu_before
            if worked >= limits.cpu_seconds or time.monotonic() - began >= limits.wall_seconds:
                self.close()
                raise ChildLost

    def _fork(self) -> None:
        request_end, our_request_end = os.pipe()
        our_reply_end, reply_end = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(our_request_end)
            os.close(our_reply_end)
            self._serve(request_end, reply_end, parent)
        os.close(request_end)
        os.close(reply_end)
        self._requests = os.fdopen(our_request_end, "wb")
        self._replies = os.fdopen(our_reply_end, "rb", buffering=0)

    def _serve(self, request_end: int, reply_end: int, parent: int) -> None:
        """Answer requests in the child until the end of input. Never returns."""
        try:
            forbid_dumps()
            die_with_parent(parent)
            limit_memory(self._limits.memory_bytes)
            with os.fdopen(request_end, "rb") as source, os.fdopen(reply_end, "wb") as sink:
                while (request := read_frame(source)) is not None:
                    allow_cpu_seconds(ceil(self._limits.cpu_seconds) + 1)
                    write_frame(sink, self._answer(request))
        finally:
            os._exit(1)
