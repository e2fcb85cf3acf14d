"""The TorchGeo adapter on one of TorchGeo's own classes, with generated files."""

import numpy as np
import pytest
from PIL import Image

from swath.core import UserError, collate
from swath.data.sources.torchgeo import TorchgeoConfig

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
    with pytest.raises(UserError, match=r"unknown TorchGeo data set 'LEVIRCDD'"):
        TorchgeoConfig("LEVIRCDD", str(root), "eurosat").build()
    with pytest.raises(UserError, match="TorchGeo cannot open EuroSAT"):
        TorchgeoConfig("EuroSAT", str(root), "eurosat").build()
