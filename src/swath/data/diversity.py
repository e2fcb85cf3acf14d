"""How diverse a sample is: entropy in nats over continents, biomes and land cover, and spectral entropy per sample.

H = -sum p ln p over the shares of the samples. Six continents in equal shares give ln 6 = 1.79; one gives 0.
Spectral entropy of a sample: per band the histogram of its valid pixels over BINS equal bins of a fixed range
(reflectance 0 to 1; else the band's own range), its entropy in nats, and the mean over all bands. Published work
does not say its bins and bands; these are ours and the report repeats them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.batch import Layer
from swath.core.contracts import Source
from swath.core.errors import UserError

BINS = 64


def entropy(shares: Iterable[float]) -> float:
    """Shannon entropy in nats of counts or shares."""
    p = np.asarray(list(shares), dtype=np.float64)
    if p.size == 0 or (p < 0).any() or p.sum() <= 0:
        raise UserError(f"entropy needs counts that are not negative and not all zero, not {p[:8].tolist()}")
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum()) + 0.0


def entropy_of(names: Iterable[str]) -> float:
    """Entropy over the categories of the samples."""
    return entropy(Counter(names).values())


def spectral_entropy(layer: Layer, bins: int = BINS) -> NDArray[np.float64]:
    """Per sample: mean over the bands of the entropy of the pixels' histogram; NaN where nothing is valid."""
    b, _, c, _, _ = layer.shape
    out = np.full(b, np.nan)
    for i in range(b):
        valid = layer.valid[i, :, 0].numpy()
        if not valid.any():
            continue
        found: list[float] = []
        for k, band in enumerate(layer.sensor.bands):
            low, high = (0.0, 1.0) if band.unit == "reflectance" else (band.low, band.high)
            values = layer.x[i, :, k].numpy()[valid]
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UserError(f"band {band.name} has no range to lay bins over", where=layer.sensor.id)
            place = np.clip(((values - low) / (high - low) * bins).astype(np.int64), 0, bins - 1)
            found.append(entropy(np.bincount(place, minlength=bins)))
        out[i] = float(np.mean(found))
        assert c == len(found)
    return out


@dataclass(frozen=True)
class Diversity:
    """Shares and entropy per aspect (continent, biome, ...), and the spread of the spectral entropy."""

    samples: int
    shares: Mapping[str, Mapping[str, float]]
    entropy: Mapping[str, float]
    spectral: Mapping[str, float] = field(default_factory=dict[str, float])
    bins: str = ""


def of_table(columns: Mapping[str, Any], aspects: Sequence[str]) -> Diversity:
    """Over columns of names (`continent`), or of shares (`lulc:CLASS`, whose means are the shares)."""
    shares: dict[str, dict[str, float]] = {}
    n = len(next(iter(columns.values()), ()))
    for aspect in aspects:
        parts = [c for c in columns if c.startswith(aspect + ":")]
        if parts:
            table = {c.removeprefix(aspect + ":"): float(np.nansum(np.asarray(columns[c], float))) for c in parts}
        elif aspect in columns:
            table = {k: float(v) for k, v in Counter(str(v) for v in columns[aspect]).items()}
        else:
            raise UserError(
                f"there is no column '{aspect}' or '{aspect}:CLASS'", remedy=f"there are: {', '.join(columns)}"
            )
        total = sum(table.values())
        shares[aspect] = {k: v / total for k, v in sorted(table.items(), key=lambda kv: -kv[1]) if v}
    return Diversity(n, shares, {k: entropy(v.values()) for k, v in shares.items()})


def of_source(source: Source, samples: Sequence[int] | None = None) -> Diversity:
    """Continents and label classes of a source, and the spectral entropy of its first sensor."""
    from swath.data.continents import continent_of

    rows = list(range(len(source)) if samples is None else samples)
    sensor = source.sensors[0]
    places: list[tuple[float, float]] = []
    values: list[float] = []
    classes: dict[str, Counter[str]] = {}
    for i in rows:
        batch = source.sample(i)
        lon, lat = (float(v) for v in batch.where.lonlat[0])
        places.append((lon, lat))
        if sensor.id in batch.layers:
            values.append(float(spectral_entropy(batch.layers[sensor.id])[0]))
        for name, label in batch.labels.items():
            if label.kind in ("class", "mask"):
                names = source.labels[name].classes
                found, counts = np.unique(label.value.numpy()[label.valid.numpy()], return_counts=True)
                for v, n in zip(found.tolist(), counts.tolist(), strict=True):
                    classes.setdefault(name, Counter())[names[v] if v < len(names) else str(v)] += n
    shares: dict[str, Mapping[str, float]] = {}
    if places and np.isfinite(places).all():
        shares["continent"] = _shares(Counter(continent_of(np.array(places))))
    shares |= {k: _shares(v) for k, v in classes.items()}
    seen = np.array(values)[np.isfinite(values)] if values else np.empty(0)
    spectral: dict[str, float] = {}
    if seen.size:
        spectral = {
            k: float(v)
            for k, v in (("mean", seen.mean()), ("std", seen.std()), ("min", seen.min()), ("max", seen.max()))
        }
    told = f"{BINS} equal bins, reflectance 0 to 1 (else the band's range), mean over the {len(sensor.bands)} bands"
    return Diversity(
        len(rows), shares, {k: entropy(v.values()) for k, v in shares.items()}, spectral, f"{told} of {sensor.id}"
    )


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {k: n / total for k, n in counts.most_common()}


def plot(found: Diversity, path: Path) -> None:
    """One panel of shares per aspect, with its entropy in nats."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    if not found.shares:
        raise UserError("there is nothing to plot: no sample has a place or a class")
    figure, axes = plt.subplots(1, len(found.shares), figsize=(4.2 * len(found.shares), 3.6), squeeze=False)
    for axis, (aspect, shares) in zip(axes[0], found.shares.items(), strict=True):
        names = list(shares)[:15]
        axis.barh(names[::-1], [shares[n] for n in names][::-1], color="#4c78a8")
        axis.set_title(f"{aspect}: {found.entropy[aspect]:.2f} nats", fontsize=10)
        axis.set_xlabel("share of the samples" if aspect == "continent" else "share")
        axis.spines[["top", "right"]].set_visible(False)
    note = f"{found.samples} samples"
    if found.spectral:
        note += f"; spectral entropy {found.spectral['mean']:.2f} ± {found.spectral['std']:.2f} nats ({found.bins})"
    figure.text(0.01, 0.01, note, fontsize=7)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)
