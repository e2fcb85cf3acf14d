"""Byte ranges of the files of a pack: on a disk, behind HTTP, or in an object store (fsspec)."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from swath.core.errors import SwathError, UserError

Range = tuple[int, int]


class Files(Protocol):
    """The files of one folder, wherever it is. `gap`: two ranges nearer than this are read as one."""

    root: str
    gap: int

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        """The bytes of each (offset, length) of a file."""
        ...

    def whole(self, name: str) -> bytes: ...


class DiskFiles:
    """A local folder; descriptors stay open, one set per process."""

    def __init__(self, root: str) -> None:
        self.root, self.gap = root, 1 << 16
        self._open: dict[str, int] = {}
        self._process = -1

    def _descriptor(self, name: str) -> int:
        if self._process != os.getpid():
            self._open, self._process = {}, os.getpid()
        if name not in self._open:
            try:
                self._open[name] = os.open(Path(self.root, name), os.O_RDONLY)
            except OSError as why:
                raise UserError(
                    f"a file of the pack cannot be opened: {why.strerror}", where=f"{self.root}/{name}"
                ) from why
        return self._open[name]

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        descriptor = self._descriptor(name)
        out: list[Any] = []
        for offset, length in ranges:
            data = os.pread(descriptor, length, offset)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            out.append(data)
        return out

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
        return {"root": self.root, "gap": self.gap, "_open": {}, "_process": -1}


class HttpFiles:
    """A server that answers range requests; one kept connection a process, three tries."""

    def __init__(self, root: str) -> None:
        self.root, self.gap = root.rstrip("/"), 1 << 18
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
        return [self._get(name, span) for span in ranges]

    def whole(self, name: str) -> bytes:
        return self._get(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "gap": self.gap, "_line": None, "_process": -1}


class StoreFiles:
    """Anything fsspec opens (`s3://`, `gs://`, `memory://`, ...)."""

    def __init__(self, root: str) -> None:
        self.root, self.gap = root.rstrip("/"), 1 << 18

    def _store(self) -> tuple[Any, str]:
        import fsspec

        try:
            store, path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as why:
            raise UserError(f"this address cannot be opened: {why}", where=self.root) from why
        return store, path

    def read(self, name: str, ranges: Sequence[Range]) -> list[Any]:
        store, path = self._store()
        files = [f"{path}/{name}"] * len(ranges)
        try:
            return store.cat_ranges(files, [a for a, _ in ranges], [a + n for a, n in ranges], on_error="raise")
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
