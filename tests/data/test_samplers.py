"""The published recipes on tables of tiles and on the simulated Earth; entropy in nats."""

import json
import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from swath.core import SENSORS, Batch, Label, LabelSpec, Layer, Where
from swath.core.errors import UserError
from swath.data.diversity import entropy, entropy_of, of_source, of_table, plot, spectral_entropy
from swath.data.footprints import great_circle_m, nearest_m
from swath.data.samplers import SAMPLERS
from swath.data.samplers.cells import Cells, read_cells, world_cells, write_cells
from swath.data.samplers.draw import draw
from swath.data.samplers.recipe import find_recipe, read_recipe

CLASSES = ("forest", "shrub", "herb", "crop", "urban", "bare", "snow", "water", "wetland", "moss", "sea")


def tiles(n=6000, regions=80, seed=0):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(len(CLASSES), 0.25), n)
    columns = {f"lulc:{c}": shares[:, k] for k, c in enumerate(CLASSES)}
    eco = rng.integers(0, regions, (n, 2))
    part = rng.uniform(0, 1, n)
    for r in range(regions):
        columns[f"ecoregion:{r}"] = (eco[:, 0] == r) * part + (eco[:, 1] == r) * (1 - part)
    lat = np.degrees(np.arcsin(rng.uniform(-0.85, 0.95, n)))
    columns |= {"id": np.array([f"T{i:05d}" for i in range(n)]), "lon": rng.uniform(-180, 180, n), "lat": lat}
    return Cells(columns)


def test_every_recipe_reads():
    names = {"prithvi2-hls", "ssl4eo-s12", "mmearth", "satlas", "geopile", "olmoearth"}
    assert names <= set(SAMPLERS.names())
    for name, recipe in SAMPLERS:
        assert recipe.name == name and recipe.title and recipe.source.count("http") >= (name != "none")


def test_prithvi_takes_from_the_top_upsamples_urban_and_covers_ecoregions():
    cells, recipe = tiles(), SAMPLERS.get("prithvi2-hls")
    ids = np.array(cells.ids)
    found = draw(recipe, cells)
    assert found.cells.ids == draw(recipe, cells).cells.ids != draw(recipe, cells, seed=3).cells.ids
    urban = np.argsort(-cells.columns["lulc:urban"], kind="stable")[:1000]
    everything = set(draw(read_recipe(_without_split(), "x.toml"), cells).cells.ids)
    assert set(ids[urban]) <= everything  # 1000 of the top 1000
    for c in CLASSES:
        top = set(ids[np.argsort(-cells.columns[f"lulc:{c}"], kind="stable")[:500]])
        assert len(top & everything) >= 100
    for r in range(80):
        fits = set(ids[cells.columns[f"ecoregion:{r}"] > 0.1])
        assert len(fits & everything) >= min(3, len(fits))
    split = np.array(found.split)
    assert 0.03 < (split == "val").mean() < 0.08 and len(found.split) == len(found.cells)
    far, _ = nearest_m(found.cells.lonlat[split == "train"], found.cells.lonlat[split == "val"])
    assert far.min() >= 10_000 - 1e-3
    assert recipe.series.length == 4 and recipe.series.max_days == 84 and recipe.quality.missing == 0.01


def _without_split():
    from importlib.resources import files

    text = (files("swath.data.samplers") / "prithvi2-hls.toml").read_text()
    return text.replace("val = 0.05", "val = 0.0")


def test_what_a_table_lacks_is_said():
    found = draw(SAMPLERS.get("prithvi2-hls"), tiles(300, 5))
    assert "lulc:urban" in found.missed and "wanted" in found.missed["lulc:urban"]
    with pytest.raises(UserError, match="lulc"):
        draw(SAMPLERS.get("prithvi2-hls"), Cells({"id": np.array(["a"]), "lon": np.zeros(1), "lat": np.zeros(1)}))


def test_ssl4eo_points_lie_around_the_largest_cities_and_apart():
    rng = np.random.default_rng(0)
    cities = Cells({"id": np.arange(50), "lon": rng.uniform(-179, 179, 50), "lat": rng.uniform(-60, 70, 50),
                    "population": rng.permutation(50) * 1e4})  # fmt: skip
    recipe = read_recipe(
        'min_distance_m = 1980\n[around]\nsigma_km = 50\ntotal = 400\ntop = 10\nrank = "population"\n', "small.toml"
    )
    found = draw(recipe, cities).cells
    assert len(found) == 400
    top = np.argsort(-cities.columns["population"])[:10]
    far, which = nearest_m(found.lonlat, cities.lonlat[top])
    assert np.percentile(far, 50) == pytest.approx(50_000 * math.sqrt(2 * math.log(2)), rel=0.15)
    assert len(set(which.tolist())) == 10
    for i in range(400):
        others = np.delete(found.lonlat, i, 0)
        assert great_circle_m(np.repeat(found.lonlat[i : i + 1], 399, 0), others).min() >= 1979.9


def test_mmearth_gives_every_biome_the_same_and_ecoregions_by_area():
    rng = np.random.default_rng(1)
    biome = rng.choice(["a", "b", "c"], 9000, p=[0.8, 0.15, 0.05])
    area = np.where(rng.random(9000) < 0.5, 3.0, 1.0)
    eco = np.where(area == 3.0, "large", "small")
    cells = Cells({"id": np.arange(9000), "biome": biome, "ecoregion": eco, "area": area})
    recipe = read_recipe('[[strata]]\nby = "biome"\ntotal = 300\nwithin = "ecoregion"\narea = "area"\n', "m.toml")
    found = draw(recipe, cells).cells.columns
    assert {b: int((found["biome"] == b).sum()) for b in "abc"} == {"a": 100, "b": 100, "c": 100}
    assert (found["ecoregion"] == "large").mean() == pytest.approx(0.75, abs=0.03)


def test_satlas_geopile_and_olmoearth():
    labels = np.array([[0, 0], [1, 0], [0, 0], [0, 2]])
    cells = Cells({"id": np.arange(4), "labels:road": labels[:, 0], "labels:pier": labels[:, 1]})
    assert draw(SAMPLERS.get("satlas"), cells).cells.ids == ["1", "3"]
    cells = Cells({"id": np.arange(60), "dataset": np.array(["naip", "ucm", "rsd46"] * 20)})
    found = draw(
        read_recipe('[[parts]]\ndataset = "naip"\nn = 7\n[[parts]]\ndataset = "rsd46"\nn = 30\n', "g.toml"), cells
    )
    assert dict(found.stages) == {"naip": 7, "rsd46": 20} and "rsd46" in found.missed
    cells = Cells({"id": np.arange(500), "osm:pier": np.arange(500) % 2, "osm:mine": np.arange(500) == 3})
    found = draw(read_recipe('[[strata]]\nby = "osm"\nmost = 20\n', "o.toml"), cells).cells
    assert 20 <= len(found) <= 21 and "3" in found.ids


def test_recipes_are_strict():
    for text in ("", '[[strata]]\nby = "a"\n[around]\nsigma_km = 1\ntotal = 1\n', '[[strata]]\nbye = "a"\n', "a ="):
        with pytest.raises(UserError):
            read_recipe(text, "bad.toml")
    with pytest.raises(UserError, match="did you mean"):
        find_recipe("mmeart")


def test_on_the_world_and_by_the_command(tmp_path, capsys):
    from swath.cli.main import main

    cells = world_cells(16, seed=3)
    total = sum(cells.columns[c] for c in cells.columns if c.startswith("lulc:"))
    assert len(cells) == 16 and np.allclose(total, 1)
    write_cells(cells, tmp_path / "cells.parquet")
    assert read_cells(tmp_path / "cells.parquet").ids == cells.ids
    out = tmp_path / "out.parquet"
    with pytest.raises(SystemExit) as stop:
        main(
            ["data", "sample", "prithvi2-hls", "--table", str(tmp_path / "cells.parquet"), "--out", str(out), "--json"]
        )
    answer = json.loads(capsys.readouterr().out)
    assert not stop.value.code and answer["cells"] == len(read_cells(out)) > 0
    assert set(answer["entropy"]) == {"continent", "biome", "lulc"}


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_every_shipped_recipe_runs_on_the_world(name, earth):
    recipe = SAMPLERS.get(name)
    if recipe.around is not None:
        recipe = replace(recipe, around=replace(recipe.around, total=50))
    found = draw(recipe, earth)
    assert 0 < len(found.cells) <= 60 and len(found.split) == len(found.cells)


@pytest.fixture(scope="module")
def earth():
    return world_cells(24, seed=3)


def test_fields_are_no_towns():
    """Farm tracks, drawn a third of a pixel wide, once paved nine tenths of a tile of fields."""
    farms, towns = (world_cells(5, 3, near=n).columns for n in ("cropland", "city"))
    assert farms["lulc:crop"].mean() > 0.4 and farms["lulc:urban"].mean() < 0.1
    assert towns["population"].mean() > 10 * farms["population"].mean()
    assert towns["osm:residential"].max() > 0.2 and farms["labels:crop field"].min() > 0


def test_entropy_in_nats():
    assert entropy([1] * 6) == pytest.approx(math.log(6)) and entropy([7]) == 0.0
    assert entropy_of(["a", "a", "b", "b"]) == pytest.approx(math.log(2))
    assert entropy([0.5, 0.25, 0.25, 0]) == pytest.approx(1.5 * math.log(2))
    for bad in ([], [0, 0], [-1, 2]):
        with pytest.raises(UserError):
            entropy(bad)


def test_spectral_entropy_of_known_pictures():
    sensor = SENSORS.get("sentinel2-l2a").select(["red", "nir"])
    flat = torch.full((1, 1, 2, 8, 8), 0.3)
    spread = ((torch.arange(64) + 0.5) / 64).reshape(1, 1, 1, 8, 8).expand(1, 1, 2, 8, 8)
    assert spectral_entropy(Layer.of(sensor, flat)).tolist() == [0.0]
    assert spectral_entropy(Layer.of(sensor, spread.clone()))[0] == pytest.approx(math.log(64))
    half = torch.cat([flat[:, :, :1], spread[:, :, :1]], 2)
    assert spectral_entropy(Layer.of(sensor, half))[0] == pytest.approx(math.log(64) / 2)
    none = Layer.of(sensor, flat, torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool))
    assert np.isnan(spectral_entropy(none)[0])


class Places:
    """Four flat chips, two of them in Africa, of two classes."""

    name, licence, fingerprint = "places", "CC0-1.0", "0"
    sensors = (SENSORS.get("sentinel2-l2a").select(["red"]),)
    labels: ClassVar = {"kind": LabelSpec("kind", "class", ("a", "b"))}

    def __len__(self):
        return 4

    def splits(self):
        return {}

    def sample(self, index, bands=None):
        layer = Layer.of(self.sensors[0], torch.full((1, 1, 1, 4, 4), 0.2))
        place = torch.tensor([[(20.0, 5.0), (10.0, 50.0)][index % 2]], dtype=torch.float64)
        label = Label("class", torch.tensor([index // 2]), torch.tensor([True]))
        return Batch({layer.sensor.id: layer}, Where(torch.tensor([index]), place), {"kind": label})


def test_report_of_a_table_and_of_a_source(tmp_path):
    table = {"continent": ["asia", "asia", "africa", "europe"], "lulc:a": [1, 0, 1, 0], "lulc:b": [0, 1, 0, 1]}
    found = of_table(table, ["continent", "lulc"])
    assert found.entropy["lulc"] == pytest.approx(math.log(2)) and found.shares["continent"]["asia"] == 0.5
    plot(found, tmp_path / "d.png")
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="biome"):
        of_table({"continent": ["asia"]}, ["biome"])
    found = of_source(Places())
    assert found.samples == 4 and "64 equal bins" in found.bins
    assert found.entropy["continent"] == found.entropy["kind"] == pytest.approx(math.log(2))
    assert found.spectral["mean"] == 0.0
