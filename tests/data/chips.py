"""Small generated folders for the tests of data."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin


def write(path, array, *, gsd=10.0, origin=(500000, 5000000), crs="EPSG:32631", nodata=None, names=None, tags=None):
    """A small GeoTIFF of (C, H, W)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    c, h, w = array.shape
    transform = from_origin(*origin, gsd, gsd)
    profile = {"driver": "GTiff", "height": h, "width": w, "count": c, "dtype": array.dtype, "crs": crs}
    with rasterio.open(path, "w", transform=transform, nodata=nodata, **profile) as out:
        out.write(array)
        for i, name in enumerate(names or ()):
            out.set_band_description(i + 1, name)
        if tags:
            out.update_tags(**tags)
    return path


def folder(root, n=6, size=32, bands=4, seed=0, **options):
    """`images/KEY.tif` and `masks/KEY.tif`: stored like Sentinel-2 with the offset of 2022."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        image = rng.integers(1100, 5000, (bands, size, size)).astype("uint16")
        mask = (image[0] > 3000).astype("uint8")
        place = (500000 + i * 1000, 5000000)
        write(root / "images" / f"k{i:02d}.tif", image, origin=place, **options)
        write(root / "masks" / f"k{i:02d}.tif", mask[None], origin=place)
    return root


S2_NAMES = ("B02", "B03", "B04", "B08")
S2 = ("blue", "green", "red", "nir")
