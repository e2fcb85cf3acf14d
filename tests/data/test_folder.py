"""The folder source: pairing by key, identity, units, labels; what is ambiguous is refused."""

import numpy as np
import pytest
import rasterio
import torch
from tests.data.chips import S2, folder, write

from swath.core import UserError, collate
from swath.data.open import open_source
from swath.data.sources.folder import FolderConfig


def config(root, **more):
    return FolderConfig(str(root), sensor="sentinel2-l2a", bands=S2, **more)


def test_plainest_folder_pairs_by_key_and_gives_physical_units(tmp_path):
    folder(tmp_path)
    (tmp_path / "masks" / "k02.tif").unlink()
    write(tmp_path / "masks" / "zz.tif", np.zeros((1, 32, 32), "uint8"))
    source = config(tmp_path).build()
    assert len(source) == 5
    assert source.index.images_without_label == ("images/k02.tif",)
    assert source.index.labels_without_image == ("masks/zz.tif",)
    for i in range(len(source)):
        sample = source.sample(i)
        key = sample.where.names[0]
        with rasterio.open(tmp_path / "images" / f"{key}.tif") as data:
            raw = data.read()
        with rasterio.open(tmp_path / "masks" / f"{key}.tif") as data:
            mask = data.read(1)
        x = sample.layers["sentinel2-l2a"].x[0, 0].numpy()
        np.testing.assert_allclose(x, raw * 1e-4 - 0.1, atol=1e-6)
        np.testing.assert_array_equal(sample.labels["label"].value[0].numpy(), mask)
    assert torch.unique(collate([source.sample(i) for i in range(5)]).where.key).numel() == 5


def test_a_folder_that_does_not_say_what_it_holds_is_refused(tmp_path):
    folder(tmp_path)
    with pytest.raises(UserError, match="do not say what they hold") as caught:
        open_source(tmp_path)
    assert "swath init" in caught.value.remedy
    assert len(open_source(tmp_path, assume=True)) == 6


def test_band_subset_reads_only_these(tmp_path):
    folder(tmp_path)
    source = config(tmp_path).build()
    full = source.sample(0).layers["sentinel2-l2a"]
    part = source.sample(0, {"sentinel2-l2a": ["nir", "blue"]}).layers["sentinel2-l2a"]
    assert part.sensor.names == ("nir", "blue")
    torch.testing.assert_close(part.x, full.x[:, :, [3, 0]])


CLOUDED = """
name = "clouded"
[layout]
kind = "folder"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["blue", "green", "red", "nir"]
path = "images/{key}.tif"
clouds = "clouds/{key}.tif"
hides = [8, 9]
"""


def test_a_layer_is_not_observed_under_its_own_cloud_masks(tmp_path):
    """At the image's size or another; a mask that is missing is an error, half a declaration as well."""
    folder(tmp_path, n=2)
    (tmp_path / "card.toml").write_text(CLOUDED)
    with pytest.raises(UserError, match="has no cloud mask"):
        open_source(tmp_path).sample(0)
    scl = np.full((1, 32, 32), 4, "uint8")
    scl[:, :8], scl[:, 8:10, :20], scl[:, 10:12] = 9, 8, 3
    write(tmp_path / "clouds" / "k00.tif", scl)
    coarse = np.full((1, 16, 16), 4, "uint8")
    coarse[:, :4] = 9
    write(tmp_path / "clouds" / "k01.tif", coarse)
    source = open_source(tmp_path)
    want = torch.from_numpy(~np.isin(scl[0], (8, 9)))
    assert torch.equal(source.sample(0).layers["sentinel2-l2a"].valid[0, 0, 0], want)
    valid = source.sample(1).layers["sentinel2-l2a"].valid[0, 0, 0]
    assert not valid[:8].any() and valid[8:].all()
    before = source.fingerprint
    write(tmp_path / "clouds" / "k01.tif", np.full((1, 32, 32), 4, "uint8"))
    assert open_source(tmp_path).fingerprint != before
    (tmp_path / "card.toml").write_text(CLOUDED.replace("hides = [8, 9]", ""))
    with pytest.raises(UserError, match="go together"):
        open_source(tmp_path)
    (tmp_path / "card.toml").write_text(CLOUDED.replace('kind = "folder"', 'kind = "tortilla"'))
    with pytest.raises(UserError, match="are read from folders"):
        open_source(tmp_path)


def test_a_file_unlike_the_others_is_refused_and_not_read_wrong(tmp_path):
    names = ("B02", "B03", "B04", "B08")
    folder(tmp_path, names=names)
    path = tmp_path / "images" / "k03.tif"
    with rasterio.open(path) as data:
        raw = data.read()
    place = {"origin": (503000, 5000000)}
    write(path, raw[::-1], names=names[::-1], **place)
    for order in ((0, 3), (3, 0)):  # whichever is read first
        source = config(tmp_path).build()
        with pytest.raises(UserError, match=r"its bands are named (.|\n)* the order is "):
            [source.sample(i) for i in order]
    write(path, ((raw - 1000.0) / 1e4).astype("float32"), names=names, **place)
    for order in ((0, 3), (3, 0)):
        source = config(tmp_path).build()
        with pytest.raises(UserError, match=r"it holds fractions(.|\n)*k00\.tif holds whole numbers(.|\n)*k03\.tif"):
            [source.sample(i) for i in order]
    write(path, raw.astype("float32"), names=names, **place)  # whole numbers in another type
    source = config(tmp_path).build()
    assert float(torch.cat([source.sample(i).layers["sentinel2-l2a"].x for i in (0, 3)]).max()) < 0.5
