"""Pictures of batches as uint8 arrays (H, W, 3), for contact sheets and reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swath.core import Boxes, Label, LabelSpec, Layer, UserError
from swath.world.noise import Plane

_RAMP = np.array([[120, 72, 32], [196, 164, 108], [240, 234, 190], [150, 200, 96], [40, 130, 52], [4, 60, 30]], float)
_HEIGHT = np.array(
    [[26, 60, 90], [70, 130, 90], [190, 190, 120], [170, 130, 90], [140, 110, 100], [250, 250, 250]], float
)
_HEAT = np.array([[32, 20, 80], [90, 30, 130], [190, 60, 90], [240, 140, 50], [252, 240, 160]], float)


def _byte(x: Plane) -> Plane:
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)


def ramp(x: Plane, low: float, high: float, colours: Plane = _RAMP) -> Plane:
    """Values as colours of a ramp."""
    at = np.clip((x - low) / max(high - low, 1e-9), 0, 1) * (len(colours) - 1)
    i = np.minimum(at.astype(int), len(colours) - 2)
    f = (at - i)[..., None]
    return np.rint(colours[i] * (1 - f) + colours[i + 1] * f).astype(np.uint8)


def true_colour(layer: Layer, t: int = 0, white: float = 0.3, bands: Sequence[str] = ("red", "green", "blue")) -> Plane:
    """Red, green, blue of one timestep (or any three bands), with a display curve."""
    x = np.stack([layer.x[0, t, layer.sensor.index(b)].numpy() for b in bands], axis=-1)
    if layer.sensor.band(bands[0]).unit == "display":
        return np.clip(x, 0, 255).astype(np.uint8)
    return _byte(np.clip(x / white, 0, 1) ** (1 / 1.5))


def ndvi(layer: Layer, t: int = 0) -> Plane:
    """Greenness, brown to dark green."""
    nir = "nir" if "nir" in layer.sensor.names else "nir08"
    r, n = (layer.x[0, t, layer.sensor.index(b)].numpy() for b in ("red", nir))
    return ramp((n - r) / np.maximum(n + r, 1e-3), -0.05, 0.9)


def radar(layer: Layer, t: int = 0) -> Plane:
    """VV, VH and their ratio as red, green, blue."""
    vv, vh = (layer.x[0, t, layer.sensor.index(b)].numpy() for b in ("vv", "vh"))
    parts = ((vv + 20) / 18, (vh + 27) / 18, (vv - vh - 2) / 12)
    return _byte(np.stack([np.clip(p, 0, 1) for p in parts], axis=-1))


def any_layer(layer: Layer, t: int = 0) -> Plane:
    """The usual picture of a sensor's kind."""
    sensor = layer.sensor
    if sensor.kind == "sar":
        return radar(layer, t)
    if {"red", "green", "blue"} <= set(sensor.names):
        return true_colour(layer, t)
    if sensor.id == "enmap":
        return true_colour(layer, t, bands=("vnir038", "vnir022", "vnir011"))
    x = layer.x[0, min(t, layer.shape[1] - 1), 0].numpy()
    if sensor.kind == "classes":
        return ramp(x, float(sensor.bands[0].low), float(sensor.bands[0].high), _HEAT)
    return ramp(x, float(x.min()), float(max(x.max(), x.min() + 1)), _HEIGHT if sensor.kind == "elevation" else _HEAT)


def label(value: Label, spec: LabelSpec, base: Plane | None = None) -> Plane:
    """A mask in its colours, a map as a ramp, an image as it is; boxes are drawn on `base`."""
    if value.kind == "mask":
        classes = value.value[0].numpy()
        if spec.colours:
            table = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in spec.colours], np.uint8)
            return table[classes]
        return ramp(classes.astype(float), 0, len(spec.classes) - 1, _HEAT)
    if value.kind == "map":
        x = value.value[0, 0].numpy()
        return ramp(x, 0, float(max(np.percentile(x, 99), 1e-3)))
    if value.kind == "image":
        return _byte(np.clip(value.value[0].numpy().transpose(1, 2, 0) / 0.3, 0, 1) ** (1 / 1.5))
    if value.kind == "boxes" and base is not None:
        return boxes(base, value.objects[0])
    raise UserError(f"a label of kind '{value.kind}' has no picture of its own")


def boxes(base: Plane, found: Boxes) -> Plane:
    """Boxes, and outlines of masks where there are any, over a picture."""
    out = base.copy()
    if found.masks is not None:
        for i, mask in enumerate(found.masks.numpy()):
            inner = mask.copy()
            inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
            out[mask & ~inner] = [(255, 90, 60), (255, 210, 60), (90, 200, 255), (200, 120, 255)][i % 4]
        return out
    for x0, y0, x1, y1 in found.xyxy.round().int().tolist():
        a, b, c, d = max(x0, 0), max(y0, 0), min(x1, out.shape[1] - 1), min(y1, out.shape[0] - 1)
        out[b : d + 1, [a, c]] = (255, 60, 60)
        out[[b, d], a : c + 1] = (255, 60, 60)
    return out


def fit(picture: Plane, size: int) -> Plane:
    """A picture at `size` x `size` by nearest pixels."""
    rows = (np.arange(size) + 0.5) * picture.shape[0] / size
    cols = (np.arange(size) + 0.5) * picture.shape[1] / size
    return picture[rows.astype(int)][:, cols.astype(int)]


def sheet(rows: Sequence[Sequence[tuple[str, Plane]]], size: int = 192) -> Plane:
    """Rows of captioned pictures as one."""
    from PIL import Image, ImageDraw

    gap, text = 6, 15
    width = max(len(r) for r in rows) * (size + gap) + gap
    page = Image.new("RGB", (width, len(rows) * (size + text + gap) + gap), (250, 250, 248))
    pen = ImageDraw.Draw(page)
    for i, row in enumerate(rows):
        for j, (caption, picture) in enumerate(row):
            x, y = gap + j * (size + gap), gap + i * (size + text + gap)
            pen.text((x, y), caption, fill=(40, 40, 40))
            page.paste(Image.fromarray(fit(picture, size)), (x, y + text))
    return np.asarray(page)
