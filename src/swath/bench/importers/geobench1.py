"""GEO-Bench v1 baseline results: one row a seed, seven train fractions."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from swath.bench.importers import number, rows_of
from swath.core.records import Protocol, Result

COLUMNS = ("model", "dataset", "partition name", "seed", "test metric")


def read(path: Path) -> list[Result]:
    """Records; the train fraction is part of the protocol and stands in `extra`."""
    file_hash = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    records: list[Result] = []
    digests: dict[str, str] = {}
    for row in rows_of(path, COLUMNS):
        fraction = row["partition name"]
        digests.setdefault(fraction, Protocol("geobench1", {"fraction": fraction}).digest)
        value = number(row, "test metric", path)
        records.append(
            Result(
                protocol=digests[fraction],
                suite="geobench1",
                dataset=row["dataset"],
                encoder=row["model"],
                tuning="full",
                decoder=row.get("decoder type", ""),
                seed=int(number(row, "seed", path)),
                metric="test metric",
                value=value,
                origin="copied",
                source=f"GEO-Bench v1 results, {path.name}, row {row['#row']}",
                failed=not math.isfinite(value),
                hashes={"source": file_hash},
                licences={"results": "Apache-2.0", "weights": "unknown"},
                extra={"submission": path.stem, "fraction": fraction, "file_row": row["#row"]},
            )
        )
    return records


MEMBER = read
