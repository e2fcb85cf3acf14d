"""A writer of tortillas, for fixtures only: nested containers with a Parquet footer."""

import io
import json
import struct

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rasterio.io import MemoryFile
from rasterio.transform import from_origin


def tiff(array, crs="EPSG:32631", gsd=10.0):
    c, h, w = array.shape
    with MemoryFile() as memory:
        profile = {"driver": "GTiff", "height": h, "width": w, "count": c, "dtype": array.dtype, "crs": crs}
        with memory.open(transform=from_origin(500000, 5000000, gsd, gsd), **profile) as out:
            out.write(array)
        return bytes(memory.getbuffer())


def h5(arrays=None, attributes=None):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in (arrays or {}).items():
            file[name] = array
        for name, value in (attributes or {}).items():
            file.attrs[name] = json.dumps(value)
    return buffer.getvalue()


def tortilla(rows, magic=b"#y"):
    """Bytes of a container; a row is (id, format, split, bytes, metadata)."""
    body = bytearray(b"\0" * 200)
    table = []
    for name, form, split, blob, meta in rows:
        table.append(
            {
                "tortilla:id": name,
                "tortilla:file_format": form,
                "tortilla:data_split": split,
                "tortilla:offset": len(body),
                "tortilla:length": len(blob),
                **meta,
            }
        )
        body += blob
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), out)
    footer = out.getvalue()
    struct.pack_into("<2sQQ", body, 0, magic, len(body), len(footer))
    return bytes(body + footer)


def benv2_like(n=4, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        s1 = rng.normal(-12, 2, (2, 12, 12)).astype("float32")
        s2 = rng.integers(1, 4000, (12, 12, 12)).astype("uint16")
        meta = {
            "labels": ["Arable land", "Pastures"][: 1 + i % 2],
            "lon": 3.0 + i,
            "lat": 45.0,
            "stac:time_start": 1.5e9,
        }
        inner = tortilla([("s1", "GTiff", "train", tiff(s1), meta), ("s2", "GTiff", "train", tiff(s2), meta)])
        rows.append((f"sample_{i}", "TORTILLA", ("train", "validation", "test")[i % 3], inner, meta))
    return tortilla(rows)
