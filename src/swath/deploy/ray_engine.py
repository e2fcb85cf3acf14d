"""Cells as Ray Core tasks: a lost node or a killed worker only means that Ray runs the task again.

Tasks, not Ray Data actors: those were measured to hang. The store of cells must be on a disk that every node sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swath.core import SwathError, UserError
from swath.deploy.commit import Commit
from swath.deploy.plan import Cell
from swath.deploy.runner import DEATHS, Report, Work, Worker, portable, worker

AHEAD = 2
_HELD: dict[str, Worker] = {}


def run_ray(work: Work, cells: Sequence[Cell], report: Report, address: str = "") -> None:
    """Work through cells on a Ray cluster (`address`), or on one started here."""
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as why:
        raise UserError("Ray is not installed", where="--engine ray", remedy="pip install 'swath[ray]'") from why
    if not cells:
        return
    mine = not ray.is_initialized()
    if mine:
        ray.init(address=address or None, include_dashboard=False, log_to_driver=False)
    try:
        task: Any = ray.remote(num_cpus=work.plan.settings.threads, max_retries=DEATHS)(_task)
        shared = ray.put(work)
        slots = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        queue, flying = list(cells), {}
        while queue or flying:
            while queue and len(flying) < slots:
                cell = queue.pop(0)
                flying[task.remote(shared, cell.index)] = cell
            for done in ray.wait(list(flying), num_returns=1)[0]:
                cell = flying.pop(done)
                report(cell, _result(ray.get(done), cell))
    except RayError as why:
        raise SwathError(f"Ray gave up: {str(why).splitlines()[0]}", where="--engine ray") from why
    finally:
        if mine:
            ray.shutdown()


def _result(given: tuple[Commit | None, SwathError | None], cell: Cell) -> Commit:
    record, error = given
    if error is not None:
        raise error
    if record is None:
        raise SwathError("Ray gave no record", where=f"cell {cell.name}")
    return record


def _task(work: Work, index: int) -> tuple[Commit | None, SwathError | None]:
    """One cell on some node; scene and model stay open in the process for the next one."""
    try:
        key = f"{work.folder}/{work.plan.digest}/{work.holes}"
        if key not in _HELD:
            _HELD.clear()
            _HELD[key] = worker(work)
        return _HELD[key].do(work.plan.cells[index]), None
    except Exception as why:
        return None, portable(why)
