"""Work through cells: in this process, or in worker processes that are watched one by one.

Neither of the standard pools survives a killed worker (one hangs, the other gives up), so each worker has its own pipe
here: when it dies its cells go back to the queue and another one starts. A cell that takes three workers with it is
named.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from swath.core import Scene, SwathError, UserError
from swath.core.heap import keep_freed
from swath.deploy.commit import CellStore, Commit
from swath.deploy.compute import Ground, Outcome, read_cell, run_cell
from swath.deploy.plan import Cell, Plan
from swath.deploy.predictor import OpenPredictor, OpenScene, Predictor, prepared

DEATHS = 3
Report = Callable[[Cell, Commit], None]


@dataclass(frozen=True, eq=False)
class Work:
    """What a worker needs to compute any cell of a plan; picklable when both openers are."""

    plan: Plan
    folder: Path
    open_scene: OpenScene
    open_predictor: OpenPredictor
    holes: bool = False


def worker(work: Work, scene: Scene | None = None, predictor: Predictor | None = None) -> Worker:
    """A worker of this process."""
    import torch

    keep_freed()
    torch.set_num_threads(work.plan.settings.threads)
    scene = scene or work.open_scene()
    if scene.fingerprint != work.plan.fingerprint:
        raise UserError(
            "the scene is not the one that was planned: a file has changed", where="scene", remedy="run the map again"
        )
    settings = work.plan.settings
    predictor = prepared(predictor or work.open_predictor(), settings.precision, settings.device)
    return Worker(work, scene, predictor, CellStore(work.folder, work.plan))


@dataclass(eq=False)
class Worker:
    """Reads one cell ahead while the model runs."""

    work: Work
    scene: Scene
    predictor: Predictor
    store: CellStore
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    ahead: dict[int, Future[Ground]] = field(default_factory=dict[int, "Future[Ground]"])

    def prefetch(self, cell: Cell) -> None:
        """Start to read a cell."""
        if cell.index not in self.ahead:
            self.ahead[cell.index] = self.reader.submit(read_cell, self.work.plan, cell, self.scene, self.work.holes)

    def do(self, cell: Cell) -> Commit:
        """Compute and commit a cell."""
        begin = time.monotonic()
        self.prefetch(cell)
        ground = self.ahead.pop(cell.index).result()
        outcome = answer_cell(self.work.plan, cell, ground, self.predictor)
        facts = {"tiles": outcome.tiles, "seconds": time.monotonic() - begin, "holes": outcome.holes}
        return self.store.commit(cell, outcome.arrays, facts)

    def through(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Commit]]:
        """Do cells in order, each read while the one before it is computed."""
        for now, after in zip_longest(cells, cells[1:]):
            self.prefetch(now)
            if after is not None:
                self.prefetch(after)
            yield now, self.do(now)


def answer_cell(plan: Plan, cell: Cell, ground: Ground, predictor: Predictor) -> Outcome:
    """What the model says of a cell: blended pixels, or objects."""
    if plan.spec.label.kind != "boxes":
        return run_cell(plan, cell, ground, predictor)
    from swath.deploy.map_objects import find_objects

    return find_objects(plan, cell, ground, predictor)


def run_here(work: Work, cells: Sequence[Cell], report: Report) -> None:
    """In this process."""
    for cell, record in worker(work).through(cells):
        report(cell, record)


@dataclass(eq=False)
class _Child:
    process: Any
    pipe: Connection
    doing: deque[Cell] = field(default_factory=deque[Cell])
    since: float = field(default_factory=time.monotonic)


class Supervisor:
    """Worker processes and the queue of cells between them."""

    def __init__(self, work: Work, cells: Sequence[Cell], workers: int, report: Report, stall_s: float) -> None:
        self.work, self.report, self.stall_s = work, report, stall_s
        self.queue: deque[Cell] = deque(cells)
        self.deaths: dict[int, int] = {}
        self.context = mp.get_context("spawn")
        self.children: list[_Child] = []
        self.workers = min(workers, len(cells))

    def run(self) -> None:
        """Until every cell is committed, or one of them cannot be."""
        try:
            while self.queue or any(c.doing for c in self.children):
                while len(self.children) < self.workers and self.queue:
                    self.children.append(self._start())
                for child in self.children:
                    self._feed(child)
                self._listen()
        finally:
            self._stop()

    def _start(self) -> _Child:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(self.work, there), daemon=True)
        process.start()
        there.close()
        return _Child(process, here)

    def _feed(self, child: _Child) -> None:
        """Two cells a worker, so that it can read one ahead; the last ones are shared out singly."""
        while self.queue and len(child.doing) < (2 if len(self.queue) > self.workers else 1):
            cell = self.queue.popleft()
            if not child.doing:
                child.since = time.monotonic()
            child.doing.append(cell)
            with suppress(OSError):
                child.pipe.send(cell.index)

    def _listen(self) -> None:
        ready = wait([c.pipe for c in self.children] + [c.process.sentinel for c in self.children], timeout=1.0)
        for child in list(self.children):
            if child.pipe in ready:
                self._hear(child)
            elif child.process.sentinel in ready:
                self._bury(child, f"was killed (exit {child.process.exitcode})")
            elif child.doing and self.stall_s and time.monotonic() - child.since > self.stall_s:
                child.process.kill()
                child.process.join()
                self._bury(child, f"gave no sign for {self.stall_s:g} s")

    def _hear(self, child: _Child) -> None:
        try:
            index, record, error = child.pipe.recv()
        except (EOFError, OSError):
            child.process.join(10)
            self._bury(child, f"was killed (exit {child.process.exitcode})")
            return
        if error is not None:
            raise error
        cell = next(c for c in child.doing if c.index == index)
        child.doing.remove(cell)
        child.since = time.monotonic()
        self.report(cell, record)

    def _bury(self, child: _Child, how: str) -> None:
        self.children.remove(child)
        child.pipe.close()
        if child.doing:
            suspect = child.doing[0]
            self.deaths[suspect.index] = self.deaths.get(suspect.index, 0) + 1
            if self.deaths[suspect.index] >= DEATHS:
                raise SwathError(
                    f"{DEATHS} workers were lost on the same cell; the last one {how}",
                    where=f"cell {suspect.name}",
                    remedy="most likely memory: use fewer --workers, a smaller --batch or a smaller --cell",
                )
        self.queue.extendleft(reversed(child.doing))

    def _stop(self) -> None:
        for child in self.children:
            with suppress(OSError):
                child.pipe.close()
            if child.doing:
                child.process.terminate()
        for child in self.children:
            child.process.join(5)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


def _serve(work: Work, pipe: Connection) -> None:
    """The life of a worker process: cells in, records out; it ends when the pipe does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    index = -1
    try:
        one = worker(work)
        cells = work.plan.cells
        waiting: deque[int] = deque()
        while True:
            while not waiting or pipe.poll():
                waiting.append(pipe.recv())
                one.prefetch(cells[waiting[-1]])
            index = waiting.popleft()
            pipe.send((index, one.do(cells[index]), None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Exception as why:
        with suppress(OSError):
            pipe.send((index, None, portable(why)))
    os._exit(0)


def portable(why: Exception) -> SwathError:
    """An error that survives a pipe."""
    if isinstance(why, SwathError):
        kind = UserError if isinstance(why, UserError) else SwathError
        return kind(why.what, where=why.where, remedy=why.remedy)
    return SwathError(f"a worker failed: {type(why).__name__}: {why}", remedy="--debug with --workers 1 shows where")


def run_local(work: Work, cells: Sequence[Cell], workers: int, report: Report, stall_s: float = 3600.0) -> None:
    """Here for one worker, else in watched processes."""
    if not cells:
        return
    if workers <= 1:
        run_here(work, cells, report)
    else:
        Supervisor(work, cells, workers, report, stall_s).run()
