"""Read ahead with worker processes, in order: what a worker does not decide is which batch comes next.

Job j is done by worker j mod n, each at most `DEPTH` jobs ahead, and its batch arrives in a slot of shared memory
(`slots`): nothing is copied between the processes.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Protocol

from swath.core.errors import SwathError
from swath.data.streams import slots

DEPTH = 2


class Read(Protocol):
    """Makes the batch of a job; arrays from `take(shape, dtype)` need no copy."""

    def __call__(self, job: Any, take: Callable[..., Any]) -> Any: ...


def work(line: Connection, read: Read, parent: int) -> None:
    """A worker's life: jobs (number, job, slot or None) come, answers (number, data, slot, is it new, error) go."""
    import torch

    torch.set_num_threads(1)
    rooms: dict[int, Any] = {}
    made = 0
    try:
        while True:
            while not line.poll(5):
                if os.getppid() != parent:  # with fork a sibling may hold the line of a parent that was killed
                    return
            number, job, given = line.recv()
            try:
                value, room = None, slots.Room(rooms.get(given))
                value = read(job, room.take)
                data, handle, room = slots.write(value, room)
                answer = (number, data, given, False, None)
                if handle >= 0:
                    rooms.pop(given, None)
                    rooms[made] = room.memory
                    answer, made = (number, data, made, True, None), made + 1
            except Exception as error:
                answer, handle = (number, b"", given, False, _spoken(error)), -1
            line.send(answer)
            if handle >= 0:
                send_handle(line, handle, parent)
                os.close(handle)
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _spoken(error: Exception) -> tuple[bytes, str]:
    text = traceback.format_exc()
    try:
        frozen = pickle.dumps(error)
        pickle.loads(frozen)
    except Exception:
        frozen = b""
    return frozen, text


class _Worker:
    """One process, its line, its slots, and the answers that are awaited."""

    def __init__(self, context: Any, read: Read, number: int) -> None:
        self.line, far = context.Pipe()
        job = {"target": work, "args": (far, read, os.getpid()), "daemon": True, "name": f"swath-read-{number}"}
        self.process = context.Process(**job)
        self.process.start()
        far.close()
        self.slots: dict[int | None, Any] = {}
        self.free: deque[int] = deque()
        self._given: deque[int | None] = deque()

    def send(self, number: int, job: Any) -> None:
        slot = self.free.popleft() if self.free else None
        self.line.send((number, job, slot))
        self._given.append(slot)

    def receive(self) -> tuple[int, Any]:
        while not wait([self.line, self.process.sentinel]):
            pass
        try:
            number, data, slot, fresh, error = self.line.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise SwathError(
                f"a reading process ended by itself (exit code {self.process.exitcode})",
                remedy="it may have been killed for memory: use fewer workers or smaller batches",
            ) from None
        given = self._given.popleft()
        if error is not None:
            self._raise(*error)
        if fresh:
            self.slots.pop(given, None)
            self.slots[slot] = slots.map_known(recv_handle(self.line))
        return number, slots.read(data, self.slots[slot], lambda: self.free.append(slot))

    def _raise(self, frozen: bytes, text: str) -> None:
        if frozen:
            error = pickle.loads(frozen)
            error.add_note(f"in a reading process:\n{text}")
            raise error
        raise SwathError(f"a reading process failed:\n{text}")

    def stop(self) -> None:
        self.line.close()
        self.process.kill()  # a fork has the run's own handler of SIGTERM; nothing of a slot has a name to leave behind
        self.process.join(5)
        self.slots.clear()


def ahead(read: Read, jobs: Iterable[Any], workers: int, start: str = "spawn") -> Iterator[Any]:
    """`read(job)` of every job, in the order of the jobs, done ahead of time by `workers` processes.

    What a batch holds belongs to whoever got it, for as long as they keep it.
    """
    context, todo = multiprocessing.get_context(start), enumerate(jobs)
    crew = [_Worker(context, read, k) for k in range(workers)]
    sent = done = 0
    ended = False
    try:
        while True:
            while not ended and sent - done < DEPTH * workers:
                number, job = next(todo, (-1, None))
                if number < 0:
                    ended = True
                    break
                crew[number % workers].send(number, job)
                sent += 1
            if done == sent:
                return
            number, value = crew[done % workers].receive()
            assert number == done, f"answer {number} where {done} was due"
            done += 1
            yield value
            del value
    finally:
        for worker in crew:
            worker.stop()
