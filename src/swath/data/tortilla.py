"""Tortilla and TACO files (version 0): a header, blobs, and a Parquet footer with one row per item.

Bytes 0-2 magic (`#y` tortilla, `WX` TACO), 2-10 footer offset, 10-18 footer length (little-endian u64). A row has
an id, a format, a split, offset and length; a row of format TORTILLA is a whole tortilla of its own, whose offsets
count from its own start. Whatever is wrong is a `UserError` that names the file and the offset.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from swath.core.errors import UserError
from swath.data.decode import Pixels

MAGIC = {b"#y": "tortilla", b"WX": "taco"}
HEADER = 50
MAX_DEPTH = 6
MAX_FOOTER = 4 << 30
MAX_ROWS = 20_000_000
MAX_ARRAY = 1 << 30
_OTHER = {"BYTES", "GEOPARQUET", "PARQUET", "CSV", "JSON", "GEOJSON", "TEXT", "SAFETENSOR", "SAFETENSORS"}
_RASTERS = {"GTIFF", "TIFF", "TIF", "COG", "JP2", "JP2OPENJPEG", "PNG", "JPEG", "JPG", "WEBP", "VRT"}
_PART = re.compile(r"\.\d+\.part\.(tortilla|taco)$")


@dataclass(frozen=True)
class Entry:
    """One row: where its bytes lie in the file (absolute), what they are, and what the row says besides."""

    id: str
    format: str
    split: str
    file: Path
    offset: int
    length: int
    path: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def where(self) -> str:
        return f"{self.file}, offset {self.offset}, {'/'.join(self.path)}"

    @property
    def nested(self) -> bool:
        return self.format.upper() in ("TORTILLA", "TACO")

    @property
    def raster(self) -> bool:
        """Whether GDAL is asked to read it."""
        return not self.nested and self.format.upper() != "HDF5" and self.format.upper() not in _OTHER


def _fail(what: str, file: Path, offset: int, why: BaseException | None = None) -> UserError:
    error = UserError(
        what, where=f"{file}, offset {offset}", remedy="the file is damaged or no tortilla: fetch it again"
    )
    error.__cause__ = why
    return error


def _at(handle: BinaryIO, offset: int, length: int, file: Path) -> bytes:
    try:
        handle.seek(offset)
        data = handle.read(length)
    except (OSError, ValueError, OverflowError) as why:
        raise _fail(f"{length} bytes cannot be read: {why}", file, offset, why) from why
    if len(data) != length:
        raise _fail(f"{length} bytes are announced and {len(data)} are there", file, offset)
    return data


def _footer(handle: BinaryIO, file: Path, base: int, limit: int) -> list[dict[str, Any]]:
    """The rows of the container that occupies [base, base + limit)."""
    from pyarrow import parquet

    if limit < HEADER:
        raise _fail(f"a container of {limit} bytes is too short for a header", file, base)
    head = _at(handle, base, HEADER, file)
    if head[:2] not in MAGIC:
        raise _fail(f"it starts with {head[:2]!r}, not with the mark of a tortilla (b'#y') or TACO (b'WX')", file, base)
    offset, length = struct.unpack_from("<QQ", head, 2)
    if offset < HEADER or length < 12 or length > MAX_FOOTER or offset + length > limit:
        raise _fail(f"the footer would be {length} bytes at {offset}, outside the {limit} bytes there are", file, base)
    blob = _at(handle, base + offset, length, file)
    try:
        reader = parquet.ParquetFile(io.BytesIO(blob))
        if reader.metadata.num_rows > MAX_ROWS:
            raise _fail(f"{reader.metadata.num_rows} rows are announced", file, base + offset)
        rows: list[dict[str, Any]] = reader.read(use_threads=False).to_pylist()
    except UserError:
        raise
    except Exception as why:
        raise _fail(f"the footer is no Parquet table: {str(why)[:160]}", file, base + offset, why) from why
    return rows


def _entry(row: Mapping[str, Any], file: Path, base: int, limit: int, above: tuple[str, ...]) -> Entry:
    where = f"row '{row.get('tortilla:id')}'"
    kinds = {"tortilla:id": str, "tortilla:file_format": str, "tortilla:offset": int, "tortilla:length": int}
    for name, kind in kinds.items():
        if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
            raise _fail(f"{where}: the column {name} holds {row.get(name)!r}", file, base)
    offset, length = int(row["tortilla:offset"]), int(row["tortilla:length"])
    if offset < HEADER or length < 0 or offset + length > limit:
        raise _fail(f"{where}: {length} bytes at {offset} lie outside the container's {limit}", file, base)
    split = row.get("tortilla:data_split")
    meta = {str(k): v for k, v in row.items() if not str(k).startswith(("tortilla:", "__index"))}
    name = str(row["tortilla:id"])
    return Entry(
        name,
        str(row["tortilla:file_format"]),
        "" if split is None else str(split),
        file,
        base + offset,
        length,
        (*above, name),
        meta,
    )


def entries(file: Path, inside: Entry | None = None) -> list[Entry]:
    """The rows of a file, or of a nested row."""
    above = () if inside is None else inside.path
    if len(above) > MAX_DEPTH:
        raise _fail(f"containers are nested more than {MAX_DEPTH} deep", file, 0 if inside is None else inside.offset)
    try:
        size = file.stat().st_size
        handle = file.open("rb")
    except OSError as why:
        raise UserError(f"the file cannot be read: {why.strerror}", where=str(file)) from why
    with handle:
        base, limit = (0, size) if inside is None else (inside.offset, inside.length)
        out = [_entry(row, file, base, limit, above) for row in _footer(handle, file, base, limit)]
    nests = sorted((e.offset, e.length) for e in out if e.nested)
    for (start, length), (following, _) in pairwise(nests):
        if start + length > following:
            raise _fail("two nested containers overlap", file, following)
    return out


def leaves(entry: Entry) -> Iterator[Entry]:
    """Every leaf below a row, in file order; the row itself when it is one."""
    if not entry.nested:
        yield entry
        return
    for child in entries(entry.file, entry):
        yield from leaves(child)


def split_of(entry: Entry, below: Sequence[Entry]) -> str:
    """The split that a row names, else the one that all its leaves name."""
    said = {x.split for x in below}
    return entry.split or (said.pop() if len(said) == 1 else "")


def is_tortilla(path: Path) -> bool:
    """Whether a file starts with the mark of one, whatever its name."""
    try:
        with path.open("rb") as handle:
            return handle.read(2) in MAGIC
    except OSError:
        return False


def holds_tortillas(folder: Path) -> bool:
    """Whether a folder has tortillas and no card of its own."""
    return folder.is_dir() and not (folder / "card.toml").is_file() and any(folder.glob("*.tortilla"))


def parts(path: Path) -> list[Path]:
    """The files of a data set: the parts beside a part, the tortillas of a folder, or the file itself."""
    if path.is_dir():
        found = sorted(p for s in ("*.tortilla", "*.taco") for p in path.glob(s))
        if not found:
            raise UserError("there is no tortilla in this folder", where=str(path))
        return found
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    if _PART.search(path.name):
        stem = _PART.sub("", path.name)
        return sorted(p for p in path.parent.iterdir() if _PART.search(p.name) and _PART.sub("", p.name) == stem)
    return [path]


def blob(entry: Entry) -> bytes:
    """The bytes of a leaf."""
    with entry.file.open("rb") as handle:
        return _at(handle, entry.offset, entry.length, entry.file)


def gdal_path(entry: Entry) -> str:
    """The leaf as a path that GDAL reads without a copy."""
    return f"/vsisubfile/{entry.offset}_{entry.length},{entry.file}"


def arrays(entry: Entry) -> dict[str, Pixels]:
    """The numeric arrays of a leaf: `{"": pixels}` of a raster, data sets by name of an HDF5 leaf."""
    if entry.raster:
        from swath.data.raster import opened, read_open

        try:
            with opened(gdal_path(entry)) as data:
                size = data.count * data.height * data.width * _itemsize(str(data.dtypes[0]))
                if size > max(MAX_ARRAY, 4000 * entry.length):
                    raise ValueError(f"{entry.length} bytes announce an array of {size}")
                return {"": read_open(data)}
        except UserError as error:
            raise _fail(f"a {entry.format} leaf: {error.what}", entry.file, entry.offset, error) from error
        except Exception as why:
            text = f"a {entry.format} leaf cannot be read: {str(why)[:160]}"
            raise _fail(text, entry.file, entry.offset, why) from why
    if entry.format.upper() == "HDF5":
        found, _ = hdf5(blob(entry), entry.where)
        return found
    return {}


def _itemsize(dtype: str) -> int:
    """Bytes of a pixel; GDAL's whole complex numbers have no NumPy type and are read as complex64."""
    return 8 if dtype.startswith("complex_int") else np.dtype(dtype).itemsize


def hdf5(data: bytes, where: str) -> tuple[dict[str, Pixels], dict[str, Any]]:
    """Numeric data sets by name, and the attributes of the file, of an HDF5 blob."""
    import h5py

    found: dict[str, Pixels] = {}
    attributes: dict[str, Any] = {}

    def visit(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset) and thing.dtype.kind in "iufb" and thing.shape is not None:
            if thing.size * thing.dtype.itemsize > max(MAX_ARRAY, 4000 * len(data)):
                raise ValueError(f"the data set {name} announces {thing.shape}")
            found[name] = np.asarray(thing[()])

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)
            attributes = {str(k): v for k, v in file.attrs.items()}
    except Exception as why:
        error = UserError(f"the HDF5 leaf cannot be read: {type(why).__name__} {str(why)[:160]}", where=where)
        raise error from why
    return dict(sorted(found.items())), attributes


def sha256(pixels: Pixels) -> str:
    """Hash of an array in C order."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def describe(entry: Entry) -> dict[str, Any]:
    """A leaf for `swath data show`: ids, format, length; shape, dtype and sha256 of every array."""
    try:
        found = arrays(entry)
    except UserError:
        if not entry.raster or entry.format.upper() in _RASTERS:
            raise
        found = {}  # a format that is no raster to GDAL: its bytes are told
    facts: dict[str, Any] = {"path": list(entry.path), "format": entry.format, "length": entry.length}
    if len(found) == 1:
        name, pixels = next(iter(found.items()))
        facts |= {"shape": list(pixels.shape), "dtype": str(pixels.dtype), "sha256": sha256(pixels)}
        if name:
            facts["array"] = name
    elif found:
        facts["arrays"] = [
            {"array": n, "shape": list(p.shape), "dtype": str(p.dtype), "sha256": sha256(p)} for n, p in found.items()
        ]
    else:
        facts["bytes_sha256"] = hashlib.sha256(blob(entry)).hexdigest()
    facts["metadata"] = plain(entry.meta)
    return facts


def show(files: Sequence[Path]) -> dict[str, Any]:
    """Every sample of these files with id, split, leaves and metadata."""
    samples: list[dict[str, Any]] = []
    for file in files:
        for entry in entries(file):
            below = list(leaves(entry))
            found = [describe(leaf) for leaf in below]
            split = split_of(entry, below)
            samples.append({"id": entry.id, "split": split, "leaves": found, "metadata": plain(entry.meta)})
    return {"files": [str(f) for f in files], "count": len(samples), "samples": samples}


def plain(value: Any) -> Any:
    """Metadata as strict JSON: NaN is null, bytes are their hash, dates are text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
