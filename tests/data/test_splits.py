"""Split rules by hold-out and continent, refusals, and the file that is written."""

import numpy as np
import pytest

from swath.core.errors import UserError
from swath.data.continents import continent_of
from swath.data.splits import Samples, SplitRule, split, write

CITIES = {
    "europe": [(2.35, 48.86), (-3.7, 40.4), (37.6, 55.75), (23.7, 37.98), (-21.9, 64.1), (18.07, 59.33), (-9.1, 38.7)],
    "africa": [(31.24, 30.04), (3.4, 6.45), (18.42, -33.92), (36.8, -1.29), (-17.4, 14.7), (47.5, -18.9), (10.2, 36.8)],
    "asia": [(139.7, 35.7), (77.2, 28.6), (46.7, 24.7), (106.8, -6.2), (100.5, 13.75), (51.4, 35.7), (69.2, 41.3)],
    "north america": [
        (-99.1, 19.4),
        (-74, 40.7),
        (-122.4, 37.8),
        (-79.5, 9),
        (-51.7, 64.2),
        (-149.9, 61.2),
        (-82.4, 23.1),
    ],
    "south america": [(-46.6, -23.5), (-70.67, -33.45), (-74.07, 4.7), (-66.9, 10.5), (-58.4, -34.6)],
    "oceania": [(151.2, -33.9), (174.8, -36.85), (147.2, -9.5), (178.4, -18.1), (-157.9, 21.3), (115.9, -31.95)],
    "antarctica": [(166.7, -77.85)],
}


def test_continents_of_cities():
    for name, places in CITIES.items():
        assert continent_of(np.array(places)) == [name] * len(places), name


def world(n=200):
    rng = np.random.default_rng(0)
    places = np.array([p for ps in CITIES.values() for p in ps])
    lonlat = places[rng.integers(0, len(places), n)] + rng.normal(0, 0.05, (n, 2))
    return Samples(tuple(f"s{i}" for i in range(n)), lonlat, columns={"country": [f"c{i % 9}" for i in range(n)]})


def test_hold_out_a_continent_and_a_country():
    samples = world()
    found = split(samples, SplitRule("continent", {"train": 0.8, "val": 0.2}, {"test": ("Africa",)}))
    where = np.array(continent_of(samples.lonlat))
    assert set(where[found.parts["test"]]) == {"africa"}
    assert "africa" not in set(where[np.concatenate([found.parts["train"], found.parts["val"]])])
    found = split(samples, SplitRule("country", {"train": 1.0}, {"test": ("c1", "c2")}))
    assert set(np.array(samples.column("country"))[found.parts["test"]]) == {"c1", "c2"}
    assert len(found.parts["train"]) + len(found.parts["test"]) == 200


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (SplitRule("continent", hold_out={"test": ("atlantis",)}), "atlantis"),
        (SplitRule("country", column="planet"), "planet"),
        (SplitRule("fate"), "fate"),
        (SplitRule("blocks", size_m=-1), "-1"),
        (SplitRule("blocks", size_m=4e7), "cannot fill"),
        (SplitRule("blocks", buffer_m=2e7), "leaves nothing"),
        (SplitRule("time"), "date"),
        (SplitRule("random", stratify=True), "stratify"),
    ],
)
def test_refusals(how, word):
    with pytest.raises(UserError, match=word):
        split(world(), how)


def test_places_are_needed():
    with pytest.raises(UserError, match="place"):
        split(Samples(("a", "b", "c")), SplitRule("blocks"))


def test_written_file_is_read_by_check(tmp_path):
    from swath.data.check.lists import read_splits

    samples = world(60)
    found = split(samples, SplitRule("blocks", buffer_m=500))
    write(tmp_path / "splits.csv", samples, found)
    (listed,) = read_splits(tmp_path, ["splits.csv"], set(samples.names))
    assert {k: len(v) for k, v in listed.splits.items()} == {k: len(v) for k, v in found.parts.items()}


def test_split_and_audit_by_the_command(tmp_path, capsys):
    import json

    import rasterio
    from rasterio.transform import from_origin

    from swath.cli.main import main

    rng = np.random.default_rng(0)
    for i in range(24):
        for name, x in (("images", rng.integers(300, 4000, (4, 8, 8)).astype("uint16")),
                        ("masks", np.full((1, 8, 8), i % 2, "uint8"))):  # fmt: skip
            (tmp_path / name).mkdir(exist_ok=True)
            with rasterio.open(
                tmp_path / name / f"k{i:02d}.tif", "w", driver="GTiff", height=8, width=8, count=len(x), dtype=x.dtype,
                crs="EPSG:32633", transform=from_origin(500000 + 3000 * (i % 6), 5e6 + 3000 * (i // 6), 10, 10),
            ) as out:  # fmt: skip
                out.write(x)
                if len(x) == 4:
                    out.descriptions = ("B02", "B03", "B04", "B8A")

    (tmp_path / "card.toml").write_text(
        'name = "mine"\n[layout]\nkind = "folder"\n[[layer]]\nsensor = "sentinel2-l2a"\npath = "images"\n'
        'bands = ["B02", "B03", "B04", "B8A"]\n[[label]]\nkind = "mask"\npath = "masks"\nclasses = ["a", "b"]\n'
    )

    def run(*args, code=0):
        with pytest.raises(SystemExit) as stop:
            main(["data", *args])
        assert (stop.value.code or 0) == code
        return json.loads(capsys.readouterr().out)

    root = str(tmp_path)
    found = run("split", root, "--size", "6500", "--buffer", "1000", "--json")
    assert sum(found["splits"].values()) + found["dropped"] == 24
    leaks = run("audit", root, "--json")
    assert len(leaks) == 3 and min(x["nearest_m"] for x in leaks) >= 1000
    run("audit", root, "--below", "1e7", "--json", code=2)
    stats = run("stats", root, "--split", "train", "--json")
    assert stats["samples"] == found["splits"]["train"] and stats["fingerprint"]
