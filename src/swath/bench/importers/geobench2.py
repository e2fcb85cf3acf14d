"""GEO-Bench-2 leaderboard submissions: `results_and_parameters.csv`, one row a seed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from swath.bench.importers import number, rows_of
from swath.bench.suites import SUITES
from swath.core.records import Result

COLUMNS = ("dataset", "Metric", "test metric", "Seed", "backbone", "decoder", "frozen_or_full_ft")
TUNINGS = {"full_ft": "full", "frozen": "frozen"}
# Licence of the published weights behind each backbone name; what is not here is `unknown`.
LICENCES = {
    "clay_v1_base": "Apache-2.0",
    "convnext_large_fb_in22k": "Apache-2.0",
    "convnext_xlarge_fb_in22k": "Apache-2.0",
    "dinov3_convnext_large": "LicenseRef-DINOv3",
    "dinov3_vitl16": "LicenseRef-DINOv3",
    "dofa_base_patch16_224": "CC-BY-4.0",
    "dofa_large_patch16_224": "CC-BY-4.0",
    "prithvi_eo_v2_300_tl": "Apache-2.0",
    "prithvi_eo_v2_600_tl": "Apache-2.0",
    "resnet50": "Apache-2.0",
    "satlas_resnet50_sentinel2_si_ms_satlas": "ODC-By-1.0",
    "satlas_swin_b_naip_si_rgb": "ODC-By-1.0",
    "satlas_swin_b_sentinel2_si_ms": "ODC-By-1.0",
    "ssl4eos12_resnet50_sentinel2_all_decur": "Apache-2.0",
    "ssl4eos12_resnet50_sentinel2_all_dino": "CC-BY-4.0",
    "ssl4eos12_resnet50_sentinel2_all_moco": "CC-BY-4.0",
    "terramind_v1_base": "Apache-2.0",
    "terramind_v1_large": "Apache-2.0",
}


def read(path: Path) -> list[Result]:
    """Records of one submission; its id is the file's name (or its folder's, as the leaderboard stores it)."""
    suite = SUITES.get("geobench2")
    digest = suite.protocol.digest
    submission = path.parent.name if path.stem == "results_and_parameters" else path.stem
    file_hash = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    records: list[Result] = []
    for row in rows_of(path, COLUMNS):
        value = number(row, "test metric", path)
        status = row.get("mlflow_run_status", "FINISHED")
        kept = ("lr", "batch_size", "weight_decay", "early_stop_patience", "mlflow_run_id", "batch_size_selection")
        trials = number(row, "n_trials", path) if row.get("n_trials") else math.nan
        records.append(
            Result(
                protocol=digest,
                suite="geobench2",
                dataset=row["dataset"],
                encoder=row["backbone"],
                tuning=TUNINGS.get(row["frozen_or_full_ft"], row["frozen_or_full_ft"]),
                decoder=row["decoder"],
                seed=int(number(row, "Seed", path)),
                metric=row["Metric"],
                value=value,
                origin="copied",
                source=f"GEO-Bench-2 leaderboard, submission {submission}, row {row['#row']}",
                failed=not math.isfinite(value) or status != "FINISHED",
                hashes={"source": file_hash},
                licences={"results": "Apache-2.0", "weights": LICENCES.get(row["backbone"], "unknown")},
                trials=None if math.isnan(trials) else int(trials),
                extra={"submission": submission, **{k: row[k] for k in kept if row.get(k)}},
            )
        )
    return records


MEMBER = read
