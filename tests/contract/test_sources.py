"""What every source promises, over the whole family: one fixture a member, the same questions to all."""

import json
import pickle

import geopandas
import numpy as np
import pytest
import torch
from PIL import Image
from shapely import box
from tests.data.chips import S2, folder, write
from tests.data.pack import benv2_like
from tests.data.serve import serve
from tests.data.test_geobench1 import write as write_geobench
from tests.data.test_hub import COMMIT, site
from tests.data.test_pixels import CARD as PIXELS
from tests.data.test_stac import BOX, catalogue
from tests.data.test_torchgeo import CARD as LEVIR

from swath.core import Batch, UserError, collate
from swath.core.config import parse_member, plain
from swath.data.sources import SOURCES
from swath.data.sources.folder import FolderConfig


def make_folder(root, stack):
    folder(root / "d", n=6, size=16)
    (root / "d" / "split.json").write_text(json.dumps({"train": ["k00", "k01", "k02"], "val": ["k03", "k04"]}))
    return {"path": str(root / "d"), "sensor": "sentinel2-l2a", "bands": list(S2)}


def make_rasters(root, stack):
    write(root / "r" / "a.tif", np.random.default_rng(0).integers(1100, 5000, (4, 40, 40)).astype("uint16"))
    area = geopandas.GeoDataFrame(
        {"split": ["train"]}, geometry=[box(499000, 4999000, 501000, 5001000)], crs="EPSG:32631"
    )
    area.to_file(root / "areas.geojson")
    return {"path": str(root / "r"), "size": 16, "sensor": "sentinel2-l2a", "bands": list(S2),
            "areas": str(root / "areas.geojson")}  # fmt: skip


def make_tortilla(root, stack):
    (root / "benv2.tortilla").write_bytes(benv2_like(6))
    return {"path": str(root / "benv2.tortilla")}


def make_geobench1(root, stack):
    (root / "m-pv4ger").mkdir()
    for i in range(4):
        write_geobench(root / "m-pv4ger", f"s{i}", "geobench1-m-pv4ger", i % 2, seed=i)
    (root / "m-pv4ger" / "default_partition.json").write_text(json.dumps({"train": ["s0", "s1"], "valid": ["s3"]}))
    return {"path": str(root / "m-pv4ger")}


def make_torchgeo(root, stack):
    pytest.importorskip("torchgeo")
    for split in ("train", "val"):
        for name in ("A", "B", "label"):
            (root / "l" / name).mkdir(parents=True, exist_ok=True)
            shape = (8, 8) if name == "label" else (8, 8, 3)
            Image.fromarray(np.full(shape, 255 * (split == "val"), "uint8")).save(root / "l" / name / f"{split}_1.png")
    (root / "levir.toml").write_text(LEVIR)
    return {
        "name": "LEVIRCD",
        "path": str(root / "l"),
        "card": str(root / "levir.toml"),
        "split_names": ["train", "val"],
    }


def make_pixels(root, stack):
    (root / "p").mkdir()
    np.save(root / "p" / "values.npy", np.random.default_rng(0).uniform(-20, -5, (5, 3, 3)))
    np.save(root / "p" / "y.npy", np.arange(5.0))
    np.save(root / "p" / "t.npy", np.array([0, 0, 0, 1, 1]))
    (root / "p" / "card.toml").write_text(PIXELS)
    return {"path": str(root / "p"), "target": "y.npy", "test": "t.npy"}


def make_world(root, stack):
    return {"chips": {"train": 3, "val": 2}, "size": 16, "dates": ["06-20"], "labels": ["land_cover"]}


def make_stac(root, stack):
    server = stack(serve(root))
    url = catalogue(root, server.url, dates=(("2022-06-01", "04.00"),))
    return {"url": url, "bbox": list(BOX), "bands": ["red", "nir"], "size": 128}


def make_hub(root, stack):
    server = stack(serve(root, hooks=site(benv2_like(3))))
    layout = {"kind": "tortilla", "path": "a/benv2.tortilla"}
    return {"repo": "o/n", "revision": COMMIT, "layout": layout, "endpoint": server.url, "cache": str(root / "cache")}


def make_packed(root, stack):
    from swath.data.streams.packing import pack

    source = FolderConfig(**make_folder(root, stack)).build()
    pack(source, root / "pack")
    return {"path": str(root / "pack")}


@pytest.fixture(scope="module", params=SOURCES.names())
def made(request, tmp_path_factory):
    import contextlib

    maker = globals().get(f"make_{request.param.replace('-', '_')}")
    assert maker is not None, f"give the source '{request.param}' a fixture here: make_{request.param}"
    with contextlib.ExitStack() as stack:
        data = {"kind": request.param, **maker(tmp_path_factory.mktemp(request.param), stack.enter_context)}
        yield data, parse_member(data, SOURCES).build()


def test_a_config_is_a_value_that_reads_back(made):
    data, _ = made
    config = parse_member(data, SOURCES)
    assert config.kind == data["kind"] and parse_member(plain(config), SOURCES) == config
    with pytest.raises(UserError, match="unknown key"):
        parse_member({**data, "pathh": 1}, SOURCES)


def test_splits_are_disjoint_and_within(made):
    _, source = made
    seen = [i for rows in source.splits().values() for i in rows]
    assert len(source) > 1 and len(seen) == len(set(seen)) and all(0 <= i < len(source) for i in seen)


def test_samples_are_batches_of_one_in_physical_units(made):
    _, source = made
    known = {s.id: s for s in source.sensors}
    keys = []
    for i in range(len(source)):
        sample = source.sample(i)
        assert isinstance(sample, Batch) and len(sample) == 1 and sample.layers
        keys.append(int(sample.where.key))
        for name, layer in sample.layers.items():
            assert layer.sensor == known[name] and layer.x.dtype == torch.float32
            assert torch.isfinite(layer.x[layer.valid.expand_as(layer.x)]).all()
            for c, band in enumerate(layer.sensor.bands):
                values = layer.x[:, :, c][layer.valid[:, :, 0]]
                assert values.numel() == 0 or band.low - 1 <= float(values.median()) <= band.high
        assert set(sample.labels) <= set(source.labels)
        for name, label in sample.labels.items():
            assert label.kind == source.labels[name].kind
            classes = len(source.labels[name].classes)
            if label.kind in ("mask", "class") and classes:
                assert int(label.value.min()) >= 0 and int(label.value.max()) < classes
    assert len(set(keys)) == len(keys), "a key is an identity"


def test_samples_collate(made):
    _, source = made
    rows = next(iter(source.splits().values()))[:3]
    assert len(collate([source.sample(i) for i in rows])) == len(rows)


def test_a_subset_of_bands_is_that_part_of_the_whole(made):
    _, source = made
    for sensor in source.sensors:
        names = list(reversed(sensor.names))[:2]
        whole, part = source.sample(0), source.sample(0, {sensor.id: names})
        if sensor.id not in whole.layers:
            continue
        assert list(part.layers) == [sensor.id]
        torch.testing.assert_close(part.layers[sensor.id].x, whole.layers[sensor.id].select(names).x)


def test_the_same_again_and_in_another_process(made):
    data, source = made
    again = parse_member(data, SOURCES).build()
    assert again.fingerprint == source.fingerprint and len(again) == len(source)
    copy = pickle.loads(pickle.dumps(source))
    for other in (again, copy):
        a, b = source.sample(1), other.sample(1)
        assert int(a.where.key) == int(b.where.key)
        for name in a.layers:
            assert torch.equal(a.layers[name].x, b.layers[name].x) and torch.equal(
                a.layers[name].valid, b.layers[name].valid
            )


def test_the_fingerprint_follows_the_files(tmp_path):
    config = FolderConfig(**make_folder(tmp_path, None))
    before = config.build().fingerprint
    write(tmp_path / "d" / "images" / "k00.tif", np.full((4, 16, 16), 2222, "uint16"), tags={"x": "y" * 50})
    assert config.build().fingerprint != before
