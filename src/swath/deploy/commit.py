"""The store of finished cells: temp file, check, atomic publish, commit record. A cell exists whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swath.core import SwathError
from swath.deploy.plan import Cell

if TYPE_CHECKING:
    from swath.deploy.embed import EmbedPlan
    from swath.deploy.plan import Plan


@dataclass(frozen=True)
class Commit:
    """The record of a cell: what file, what bytes, how long it took, what could not be read: windows (row, column,
    height, width), with a fifth number where only the images of that day are lost."""

    key: str
    file: str
    sha256: str
    size: int
    tiles: int
    seconds: float
    holes: tuple[tuple[int, ...], ...] = ()


def publish(path: Path, data: bytes) -> None:
    """Write bytes under a name so that the name never holds less than all of them, even through a crash."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temp, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if temp.stat().st_size != len(data):
            raise SwathError("the file system kept fewer bytes than were written", where=str(path))
        os.replace(temp, path)
    except OSError as why:
        raise disk_error(why, path) from why
    finally:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


def disk_error(why: OSError, path: Path) -> SwathError:
    """A failure to write, in words."""
    if why.errno in (errno.ENOSPC, errno.EDQUOT):
        return SwathError(
            "the disk is full",
            where=str(path),
            remedy="free some space and run the same command again: finished cells are kept",
        )
    return SwathError(f"cannot write: {why.strerror or why}", where=str(path))


class CellStore:
    """Finished cells of one plan, in a folder of its own beside the output."""

    def __init__(self, folder: Path, plan: Plan | EmbedPlan) -> None:
        self.root, self.plan = folder, plan
        self.folder = folder / plan.digest[:16]

    def open(self) -> None:
        """Make the folder and write the manifest."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self.folder.glob(".*.tmp"):
                if not _alive(old):
                    old.unlink(missing_ok=True)
        except OSError as why:
            raise disk_error(why, self.folder) from why
        manifest = self.folder / "manifest.json"
        if not manifest.exists():
            plan = self.plan
            cells = [{"name": c.name, "key": c.key, "read": asdict(c.read)} for c in plan.cells]
            facts = {"plan": plan.digest, **plan.manifest(), "cells": cells}
            publish(manifest, json.dumps(facts).encode())

    def commit(self, cell: Cell, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Commit:
        """Publish a cell's arrays, then its record; the same cell twice gives the same bytes."""
        from safetensors.numpy import save

        data = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
        path = self.folder / f"{cell.name}.cell"
        publish(path, data)
        record = Commit(
            cell.key,
            path.name,
            hashlib.sha256(data).hexdigest(),
            len(data),
            int(facts["tiles"]),
            float(facts["seconds"]),
            tuple(facts.get("holes", ())),
        )
        publish(self.folder / f"{cell.name}.json", json.dumps(asdict(record)).encode())
        return record

    def record(self, cell: Cell, check: bool = False) -> Commit | None:
        """The commit record of a cell, when it and its file are there and whole."""
        try:
            data: dict[str, Any] = json.loads((self.folder / f"{cell.name}.json").read_bytes())
            data["holes"] = tuple(tuple(int(v) for v in h) for h in data["holes"])
            record = Commit(**data)
            path = self.folder / record.file
            if record.key != cell.key or path.stat().st_size != record.size:
                return None
            if check and hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Cells still to do: absent, torn or changed on disk, or with holes that may read well this time."""
        found = ((c, self.record(c, check=True)) for c in cells)
        return [c for c, record in found if record is None or record.holes]

    def records(self) -> Iterator[tuple[Cell, Commit]]:
        """Every cell with its record; an absent one is an error."""
        for cell in self.plan.cells:
            record = self.record(cell)
            if record is None:
                raise SwathError(f"cell {cell.name} is not there", where=str(self.folder), remedy="run the map again")
            yield cell, record

    def read(self, cell: Cell, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Named arrays of a finished cell; all of them without names."""
        from safetensors import safe_open

        with safe_open(str(self.folder / f"{cell.name}.cell"), framework="numpy") as held:
            return {n: held.get_tensor(n) for n in (held.keys() if names is None else names)}

    def remove(self) -> None:
        """Forget the cells, after everything made of them is published."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.root.rmdir()


def _alive(temp: Path) -> bool:
    """Whether the process that was writing this temporary file still runs (on this machine)."""
    pid = temp.name.removesuffix(".tmp").rpartition(".")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
