"""torchgeo-bench `all_results.csv`: frozen kNN-5 and linear scores with intervals over test samples.

Rows of other methods (profiles, intrinsic dimension) are no scores of a data set and are left out.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from swath.bench.importers import number, rows_of
from swath.core.records import Protocol, Result

COLUMNS = ("dataset", "method", "metric_name", "metric_value", "seed", "name", "normalization", "bands")
METHODS = ("knn5", "linear")
VARIANT = ("normalization", "image_size", "interpolation", "partition", "bands")


def read(path: Path) -> list[Result]:
    """Records of the two frozen methods."""
    file_hash = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    records: list[Result] = []
    for row in rows_of(path, COLUMNS):
        if row["method"] not in METHODS:
            continue
        variant = {k: row.get(k, "") for k in VARIANT}
        value = number(row, "metric_value", path)
        low, high = number(row, "ci_lower", path), number(row, "ci_upper", path)
        records.append(
            Result(
                protocol=Protocol("torchgeo-bench", {"method": row["method"], **variant}).digest,
                suite="torchgeo-bench",
                dataset=row["dataset"],
                encoder=row["name"],
                tuning=row["method"],
                seed=int(number(row, "seed", path)),
                metric=row["metric_name"],
                value=value,
                origin="copied",
                source=f"torchgeo-bench results, {path.name}, row {row['#row']}",
                failed=not math.isfinite(value),
                low=None if math.isnan(low) else low,
                high=None if math.isnan(high) else high,
                hashes={"source": file_hash},
                licences={"results": "MIT", "weights": "unknown"},
                units={"normalization": row["normalization"]},
                extra={"submission": path.stem, **variant},
            )
        )
    return records


MEMBER = read
