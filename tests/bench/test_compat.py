"""The published aggregation: against an independent transcription with pandas, and the facts' own numbers."""

import json
import math

import numpy as np
import pytest

from swath.bench import compat
from swath.bench.importers import IMPORTERS
from swath.bench.suites import SUITES
from swath.core import Result, UserError

SUITE = SUITES.get("geobench2")
FILES = ("114be1f0", "2ce4a907", "80100fc6")
CORE = {
    "114be1f0": {
        "convnext_xlarge_fb_in22k": 77.8, "clay_v1_base": 77.8, "dinov3_convnext_large": 70.8,
        "convnext_large_fb_in22k": 69.9, "prithvi_eo_v2_600_tl": 68.9, "satlas_swin_b_sentinel2_si_ms": 65.6,
        "terramind_v1_large": 61.4, "dofa_large_patch16_224": 60.4, "prithvi_eo_v2_300_tl": 59.4,
        "dinov3_vitl16": 58.1, "terramind_v1_base": 54.7, "satlas_swin_b_naip_si_rgb": 52.6,
        "ssl4eos12_resnet50_sentinel2_all_decur": 28.9, "resnet50": 26.8,
    },
    "2ce4a907": {"clay_v1_base": 78.6, "terramind_v1_large": 67.4, "dofa_large_patch16_224": 61.9},
}  # fmt: skip


def transcription(records, members):
    """The published procedure, written with pandas' own grouped sampling."""
    import pandas as pd
    from scipy.stats import sem, trim_mean

    frame = pd.DataFrame([{"b": r.encoder, "d": r.dataset, "v": r.value} for r in records if r.dataset in members])
    low = frame["d"].map(lambda d: SUITE.anchors[d][0])
    frame["z"] = (frame["v"] - low) / (frame["d"].map(lambda d: SUITE.anchors[d][1]) - low)
    groups = frame.groupby(["b", "d"])
    repeats = [groups.sample(frac=1, replace=True, random_state=100 + i) for i in range(100)]
    draws = pd.concat([r.groupby("b")["z"].apply(lambda s: trim_mean(s, 0.25)) for r in repeats], axis=1)
    whole = frame.groupby("b")["d"].nunique() == len(members)
    return {b: (draws.loc[b].mean(), sem(draws.loc[b])) for b in draws.index if whole[b]}


@pytest.mark.parametrize("name", FILES)
def test_every_capability_of_every_submission(shared, name):
    records = IMPORTERS.get("geobench2")(shared / "published/geobench2" / f"{name}.csv")
    got = compat.rank(records, SUITE)
    have = {r.dataset for r in records}
    for capability, members in SUITE.capabilities.items():
        if not set(members) <= have:
            assert all(math.isnan(s.score) for s in got[capability].values())
            continue
        want = transcription(records, members)
        finite = {e: s for e, s in got[capability].items() if not math.isnan(s.score)}
        assert set(finite) == set(want)
        for encoder, (score, error) in want.items():
            assert finite[encoder].score == pytest.approx(score, abs=1e-12)
            assert finite[encoder].sem == pytest.approx(error, abs=1e-12)
    for encoder, score in CORE.get(name, {}).items():
        assert round(100 * got["Core"][encoder].score, 1) == score


def test_anchors_are_exact(shared):
    folder = shared / "published/geobench2"
    records = [r for f in SUITE.rules["anchor_submissions"] for r in IMPORTERS.get("geobench2")(folder / f"{f}.csv")]
    published = json.loads((folder / "normalizer.json").read_text())
    assert {k: list(v) for k, v in compat.anchors(records).items()} == published
    assert {k: list(v) for k, v in SUITE.anchors.items()} == published


def record(encoder, dataset, value, seed=0, **other):
    return Result(
        protocol="p", suite="geobench2", dataset=dataset, encoder=encoder, tuning="full", seed=seed, metric="m",
        value=value, origin="copied", **other,
    )  # fmt: skip


def test_an_incomplete_encoder_gets_nan_but_moves_the_others_draws():
    members = SUITE.capabilities["Classification"]
    rng = np.random.default_rng(0)
    full = [record(e, d, rng.random(), s) for e in ("b", "c") for d in members for s in range(5)]
    part = [record("a", members[0], rng.random(), s) for s in range(5)]
    with_part, without = compat.rank(full + part, SUITE), compat.rank(full, SUITE)
    assert math.isnan(with_part["Classification"]["a"].score)
    assert with_part["Classification"]["b"].score != without["Classification"]["b"].score


def test_other_data_is_refused():
    with pytest.raises(UserError, match="suite geobench2"):
        compat.rank([record("a", "mnist", 0.5)], SUITE)
