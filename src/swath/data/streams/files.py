"""Byte ranges of the files of a pack: on a disk, behind HTTP, or in an object store (fsspec)."""

from __future__ import annotations

import http.client
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from swath.core.errors import SwathError, UserError

Range = tuple[int, int]
GAP = 1 << 18


class Files(Protocol):
    """The files of one folder, wherever it is."""

    root: str

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        """The bytes of each (offset, length) of a file, as buffers; shorter ones where the file ends before."""
        ...

    def whole(self, name: str) -> bytes: ...


def joined(ranges: Sequence[Range], gap: int) -> list[Range]:
    """Ranges in order, with those that are nearer than `gap` made one: a request costs more than a few bytes."""
    out: list[list[int]] = []
    for offset, length in ranges:
        if out and offset - (out[-1][0] + out[-1][1]) <= gap:
            out[-1][1] = offset + length - out[-1][0]
        else:
            out.append([offset, length])
    return [(a, n) for a, n in out]


def cut(ranges: Sequence[Range], spans: Sequence[Range], blocks: Sequence[Any]) -> list[Any]:
    """The ranges out of the blocks that were read for the joined spans."""
    out: list[Any] = []
    at = 0
    for offset, length in ranges:
        while offset + length > spans[at][0] + spans[at][1]:
            at += 1
        start = offset - spans[at][0]
        out.append(memoryview(blocks[at])[start : start + length])
    return out


class DiskFiles:
    """A local folder. Shards are mapped, not copied: a chunk is decompressed straight from the page cache."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._maps: dict[str, memoryview] = {}

    def _map(self, name: str) -> memoryview:
        if name not in self._maps:
            try:
                with Path(self.root, name).open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            except OSError as why:
                raise UserError(
                    f"a file of the pack cannot be opened: {why.strerror}", where=f"{self.root}/{name}"
                ) from why
            self._maps[name] = memoryview(held)
        return self._maps[name]

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        view = self._map(name)
        return [view[offset : offset + length] for offset, length in ranges]

    def whole(self, name: str) -> bytes:
        try:
            return Path(self.root, name).read_bytes()
        except OSError as why:
            raise UserError(
                f"this is no finished pack: {name} {why.strerror}",
                where=self.root,
                remedy="swath data pack SOURCE --out DIR",
            ) from why

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_maps": {}}


class HttpFiles:
    """A server that answers range requests; one kept connection a process, three tries."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._line: http.client.HTTPConnection | None = None
        self._process = -1

    def _connection(self) -> http.client.HTTPConnection:
        if self._line is None or self._process != os.getpid():
            place = urlsplit(self.root)
            kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
            self._line, self._process = kind(place.netloc, timeout=60), os.getpid()
        return self._line

    def _get(self, name: str, span: Range | None) -> bytes:
        where, why = f"{self.root}/{name}", ""
        headers = {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"} if span else {}
        for attempt in range(3):
            try:
                line = self._connection()
                line.request("GET", f"{urlsplit(self.root).path}/{name}", headers=headers)
                answer = line.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._line, why = None, str(error)
                time.sleep(0.2 * 4**attempt)
                continue
            if answer.status == 206 or (answer.status == 200 and span is None):
                return data
            if answer.status == 200 and span is not None:
                raise UserError("the server does not answer range requests", where=where)
            why = f"HTTP {answer.status} {answer.reason}"
            if answer.status < 500:
                raise UserError(f"the file cannot be read: {why}", where=where)
            time.sleep(0.2 * 4**attempt)
        raise SwathError(f"the file cannot be read after three tries: {why}", where=where)

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        spans = joined(ranges, GAP)
        return cut(ranges, spans, [self._get(name, span) for span in spans])

    def whole(self, name: str) -> bytes:
        return self._get(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_line": None, "_process": -1}


class StoreFiles:
    """Anything fsspec opens (`s3://`, `gs://`, `memory://`, ...)."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def _store(self) -> tuple[Any, str]:
        import fsspec

        try:
            store, path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as why:
            raise UserError(f"this address cannot be opened: {why}", where=self.root) from why
        return store, path

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        store, path = self._store()
        spans = joined(ranges, GAP)
        files = [f"{path}/{name}"] * len(spans)
        try:
            blocks = store.cat_ranges(files, [a for a, _ in spans], [a + n for a, n in spans], on_error="raise")
            return cut(ranges, spans, blocks)
        except OSError as why:
            raise UserError(f"a file of the pack cannot be read: {why}", where=f"{self.root}/{name}") from why

    def whole(self, name: str) -> bytes:
        store, path = self._store()
        try:
            return store.cat_file(f"{path}/{name}")
        except OSError as why:
            raise UserError(f"this is no finished pack: {name}: {why}", where=self.root) from why


def open_files(root: str) -> Files:
    """The files of a folder by its path or address."""
    if root.startswith(("http://", "https://")):
        return HttpFiles(root)
    return StoreFiles(root) if "://" in root else DiskFiles(root)
