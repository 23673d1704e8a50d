"""Judging in a child that can be killed: for the offline check, which must not be stalled or ended
by any line."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from services.validator.sandbox.worker_main import (
    allow_processor,
    die_with,
    read_frame,
    write_frame,
)
from services.validator.sandbox.worker_process import processor_seconds
from shared.hardening import forbid_dumps

Answer = Callable[[bytes], bytes]
_LOOK_EVERY = 0.05


class Stuck(Exception):
    """The child died over this request, or was stuck and was killed."""


@dataclass(frozen=True)
class Patience:
    """``seconds``: of work for one request; ``starved_seconds``: of wall time, where the machine is
    loaded."""

    seconds: float = 0.9
    starved_seconds: float = 10.0
    memory_bytes: int = 1 << 30


class Guard:
    """``answer`` runs in a forked child, made when it is first needed and again after it was lost.
    Single-threaded programs only: a fork copies no other thread."""

    def __init__(self, answer: Answer, patience: Patience | None = None) -> None:
        self._answer, self._patience = answer, patience or Patience()
        self._pid = 0

    def __call__(self, request: bytes) -> bytes:
        """Stuck when there is no answer; the next request has another child."""
        if not self._pid:
            self._fork()
        used, began = processor_seconds(self._pid), time.monotonic()
        try:
            write_frame(self._requests, request)
            self._await_answer(used, began)
            reply = read_frame(self._replies)
        except OSError:
            reply = None
        if reply is None:
            self.close()
            raise Stuck
        return reply

    def close(self) -> None:
        """Ends the child; idempotent."""
        if not self._pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = 0
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()

    def _await_answer(self, used: float, began: float) -> None:
        patience = self._patience
        while not select.select([self._replies], [], [], _LOOK_EVERY)[0]:
            worked = processor_seconds(self._pid) - used
            if worked >= patience.seconds or time.monotonic() - began >= patience.starved_seconds:
                self.close()
                raise Stuck

    def _fork(self) -> None:
        (take_request, give_request), (take_reply, give_reply) = os.pipe(), os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(give_request)
            os.close(take_reply)
            self._serve(take_request, give_reply, parent)
        os.close(take_request)
        os.close(give_reply)
        self._requests, self._replies = (
            os.fdopen(give_request, "wb"),
            os.fdopen(take_reply, "rb", buffering=0),
        )

    def _serve(self, requests: int, replies: int, parent: int) -> None:
        """The child's life; it never returns."""
        try:
            forbid_dumps()
            die_with(parent)
            memory = self._patience.memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            with os.fdopen(requests, "rb") as source, os.fdopen(replies, "wb") as sink:
                while (request := read_frame(source)) is not None:
                    allow_processor(ceil(self._patience.seconds) + 1)
                    write_frame(sink, self._answer(request))
        finally:
            os._exit(1)
