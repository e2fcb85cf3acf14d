"""The TorchGeo adapter on one of TorchGeo's own classes, with generated files."""

import numpy as np
import pytest
from PIL import Image
from tests.data.chips import write

from swath.core import UserError, collate
from swath.data.sources.torchgeo import Beside, TorchgeoConfig

pytest.importorskip("torchgeo")
CARD = """name = "levir"
[[layer]]
sensor = "rgb-aerial"
bands = ["red", "green", "blue"]
scale = 1.0
offset = 0.0
[[label]]
kind = "mask"
classes = ["no change", "change"]
"""


@pytest.fixture
def levir(tmp_path):
    rng = np.random.default_rng(0)
    images = {}
    for split in ("train", "val"):
        for i in range(2):
            for folder in ("A", "B", "label"):
                (tmp_path / folder).mkdir(exist_ok=True)
                shape = (16, 16) if folder == "label" else (16, 16, 3)
                high = 2 if folder == "label" else 256
                array = rng.integers(0, high, shape).astype("uint8") * (255 if folder == "label" else 1)
                images[folder, f"{split}_{i}"] = array
                Image.fromarray(array).save(tmp_path / folder / f"{split}_{i}.png")
    (tmp_path / "card.toml").write_text(CARD)
    return tmp_path, images


def test_a_change_pair_is_two_timesteps(levir):
    root, images = levir
    source = TorchgeoConfig("LEVIRCD", str(root), str(root / "card.toml"), split_names=("train", "val")).build()
    assert source.splits() == {"train": [0, 1], "val": [2, 3]}
    batch = collate([source.sample(i) for i in range(4)])
    layer = batch.layers["rgb-aerial"]
    assert layer.shape == (4, 2, 3, 16, 16)
    np.testing.assert_array_equal(layer.x[3, 1].permute(1, 2, 0), images["B", "val_1"])
    np.testing.assert_array_equal(batch.labels["label"].value[0], images["label", "train_0"] // 255)
    assert source.sample(0, {"rgb-aerial": ["blue"]}).layers["rgb-aerial"].shape[2] == 1


def test_what_is_no_sample_data_set_is_refused(levir):
    root, _ = levir
    with pytest.raises(UserError, match="indexed by place"):
        TorchgeoConfig("NAIP", str(root), "eurosat").build()
    with pytest.raises(UserError, match="TorchGeo cannot open NAIP"):
        TorchgeoConfig("NAIP", str(root), "eurosat", window=8).build()
    with pytest.raises(UserError, match="takes no window"):
        TorchgeoConfig("LEVIRCD", str(root), "eurosat", window=8).build()
    with pytest.raises(UserError, match=r"unknown TorchGeo data set 'LEVIRCDD'"):
        TorchgeoConfig("LEVIRCDD", str(root), "eurosat").build()
    with pytest.raises(UserError, match="TorchGeo cannot open EuroSAT"):
        TorchgeoConfig("EuroSAT", str(root), "eurosat").build()


GEO = """name = "naip"
[[layer]]
sensor = "naip"
bands = ["red", "green", "blue", "nir"]
scale = 1.0
offset = 0.0
[[label]]
kind = "mask"
classes = ["background", "corn", "soy"]
"""


@pytest.fixture
def places(tmp_path):
    """One NAIP tile and a crop map (CDL, whose classes TorchGeo numbers anew) on the same grid of 1 m."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(1, 255, (4, 40, 48)).astype("uint8"), rng.choice([0, 1, 5], (1, 40, 48)).astype("uint8")
    names = {"naip": "m_3807511_ne_18_060_20190605.tif", "cdl": "2019_30m_cdls.tif"}
    for folder, array in (("naip", x), ("cdl", y)):
        write(tmp_path / folder / names[folder], array, gsd=1.0, crs="EPSG:32618")
    (tmp_path / "card.toml").write_text(GEO)
    return tmp_path, x, y


def test_a_geographic_data_set_is_cut_into_windows_with_its_labels(places):
    root, x, y = places
    beside = Beside("CDL", str(root / "cdl"), {"years": [2019], "classes": [0, 1, 5]})
    config = TorchgeoConfig("NAIP", str(root / "naip"), str(root / "card.toml"), window=16, beside=beside)
    source = config.build()
    assert len(source) == 3 * 3 and source.splits() == {"all": list(range(9))}, "the last row of windows is padded"
    seen = set()
    for i in range(9):
        sample = source.sample(i)
        grid = sample.where.grids[0]
        column, row = (round(v) for v in (grid.affine[2] - 500000, 5000000 - grid.affine[5]))
        layer = sample.layers["naip"]
        assert layer.shape == (1, 1, 4, 16, 16) and grid.shape == (16, 16) and grid.crs == "EPSG:32618"
        r, c = slice(max(row, 0), min(row + 16, 40)), slice(column, min(column + 16, 48))
        inside = slice(max(-row, 0), 16 - max(row + 16 - 40, 0))
        np.testing.assert_array_equal(layer.x[0, 0, :, inside, : c.stop - c.start], x[:, r, c])
        stored = np.array([0, 1, 5])[sample.labels["label"].value[0].numpy()]
        np.testing.assert_array_equal(stored[inside, : c.stop - c.start], y[0, r, c])
        seen.add((row, column))
    assert len(seen) == 9 and len({source.sample(i).where.key.item() for i in range(9)}) == 9


def test_windows_say_when_and_overlap_as_told(places):
    root, _, _ = places
    (root / "bare.toml").write_text(GEO.split("[[label]]")[0])
    source = TorchgeoConfig("NAIP", str(root / "naip"), str(root / "bare.toml"), window=16, stride=8).build()
    assert len(source) > 9
    day = source.sample(0).layers["naip"].times
    assert day is not None and day.tolist() == [[18052]], "5 June 2019"
