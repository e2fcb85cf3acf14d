"""The simulated Earth beside published Sentinel-1/2 statistics: the numbers and the picture of docs/world.md.

python benchmarks/world_realism.py [--picture docs/pictures/world-realism.png]
"""

import argparse

import numpy as np

from swath.core import SENSORS
from swath.world import World, day_of


def sample():
    world = World(7, clouds=1.0)
    days = [day_of(2021, m, d) for m, d in ((2, 14), (5, 20), (8, 10), (11, 5))]
    return world.batch(world.sites(60, seed=5), 24, ["sentinel2-l2a", "sentinel1-rtc"], days, ["land_cover"])


def values(layer):
    return layer.x.permute(2, 0, 1, 3, 4).reshape(layer.shape[2], -1).numpy()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--picture", default="")
    picture = options.parse_args().picture
    batch = sample()
    for name in ("sentinel2-l2a", "sentinel1-rtc"):
        for band, row in zip(SENSORS.get(name).bands, values(batch.layers[name]), strict=True):
            print(f"{name} {band.name:11s} mean {row.mean():8.3f} (published {band.mean:8.3f})  "
                  f"std {row.std():6.3f} (published {band.std:6.3f})")  # fmt: skip
    if picture:
        draw(batch, picture)


def draw(batch, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    s2, s1 = SENSORS.get("sentinel2-l2a"), SENSORS.get("sentinel1-rtc")
    x, r = values(batch.layers[s2.id]), values(batch.layers[s1.id])
    fig, axes = plt.subplots(1, 3, figsize=(13, 3.8), width_ratios=(2.4, 0.9, 1.4))
    for ax, sensor, rows in ((axes[0], s2, x), (axes[1], s1, r)):
        at = np.arange(len(sensor.bands))
        ax.errorbar(
            at - 0.12,
            [b.mean for b in sensor.bands],
            [b.std for b in sensor.bands],
            fmt="o",
            label="published",
            color="#888",
        )
        ax.errorbar(at + 0.12, rows.mean(1), rows.std(1), fmt="s", label="simulated Earth", color="#0b6e4f")
        ax.set_xticks(at, sensor.names, rotation=45, ha="right", fontsize=8)
        ax.set_title(f"{sensor.id}: mean and deviation ({sensor.bands[0].unit})", fontsize=9)
    axes[0].legend(fontsize=8)
    picture = axes[2].imshow(np.corrcoef(x), vmin=0, vmax=1, cmap="viridis")
    axes[2].set_xticks(range(len(s2.bands)), s2.names, rotation=90, fontsize=6)
    axes[2].set_yticks(range(len(s2.bands)), s2.names, fontsize=6)
    axes[2].set_title("correlation of bands, simulated", fontsize=9)
    fig.colorbar(picture, ax=axes[2], shrink=0.8)
    fig.tight_layout()
    fig.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
