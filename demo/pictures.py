"""From layers and labels to pictures for the page."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from swath.core import LabelSpec, Layer


def picture_of(rgb, scale=1):
    """An (H, W, 3) array of 0..1 as WebP; `scale` repeats pixels."""
    a = (np.clip(np.nan_to_num(rgb), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(a)
    if scale != 1:
        picture = picture.resize((round(a.shape[1] * scale), round(a.shape[0] * scale)), Image.Resampling.NEAREST)
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=82, method=4)
    return out.getvalue()


def band(layer: Layer, name: str, t: int = 0, sample: int = 0):
    return layer.x[sample, t, layer.sensor.index(name)].numpy()


def true_colour(layer: Layer, t: int = 0, sample: int = 0, bright: float = 3.4):
    """Red, green, blue with a mild gamma: what an eye would see."""
    rgb = np.stack([band(layer, n, t, sample) for n in ("red", "green", "blue")], -1)
    return np.clip(rgb * bright, 0, 1) ** 0.8


def ramp(x, stops):
    """Values 0..1 through a list of colours."""
    colours = np.array([[int(s[i : i + 2], 16) / 255 for i in (1, 3, 5)] for s in stops])
    place = np.clip(np.nan_to_num(x), 0, 1) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    part = (place - low)[..., None]
    return colours[low] * (1 - part) + colours[low + 1] * part


def ndvi(layer: Layer, t: int = 0, sample: int = 0):
    nir, red = band(layer, "nir", t, sample), band(layer, "red", t, sample)
    value = (nir - red) / np.maximum(nir + red, 1e-3)
    seen = layer.valid[sample, t, 0].numpy()
    picture = ramp((value + 0.1) / 1.0, ["#8c5a2b", "#e9dfb0", "#8ab84a", "#1c6b2f", "#0b3d1c"])
    return np.where(seen[..., None], picture, 0.93)


def radar(layer: Layer, t: int = 0, sample: int = 0):
    """VV, VH and their ratio as red, green, blue."""
    vv, vh = band(layer, "vv", t, sample), band(layer, "vh", t, sample)
    return np.stack([(vv + 20) / 20, (vh + 27) / 20, (vv - vh) / 15], -1)


def grey(x, low=None, high=None, colours=("#0b1020", "#3b5a8c", "#7fb28c", "#efe9b5", "#ffffff")):
    low = np.nanpercentile(x, 2) if low is None else low
    high = np.nanpercentile(x, 98) if high is None else high
    return ramp((x - low) / max(high - low, 1e-9), list(colours))


def classes(mask: torch.Tensor, spec: LabelSpec, valid: torch.Tensor | None = None):
    """A mask in the colours of its legend; what is not valid is grey."""
    n = max(len(spec.classes), 1)
    table = [c or "#888888" for c in spec.colours] or [
        f"#{(37 * i) % 200 + 40:02x}{(91 * i) % 200 + 40:02x}{(53 * i) % 200 + 40:02x}" for i in range(n)
    ]
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in table])
    picture = colours[np.clip(mask.numpy(), 0, len(colours) - 1)]
    return picture if valid is None else np.where(valid.numpy()[..., None], picture, 0.85)


def outlined(rgb, boxes, colour=(1.0, 0.85, 0.1)):
    """Boxes drawn on a picture."""
    out = rgb.copy()
    h, w = out.shape[:2]
    for x0, y0, x1, y1 in boxes.round().int().tolist():
        x0, x1 = (min(max(v, 0), w - 1) for v in (x0, x1))
        y0, y1 = (min(max(v, 0), h - 1) for v in (y0, y1))
        out[[y0, y1], x0 : x1 + 1] = colour
        out[y0 : y1 + 1, [x0, x1]] = colour
    return out


def legend(spec: LabelSpec) -> str:
    """The colours of a legend as HTML."""
    from swath.report.page import esc

    spots = [
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:12px;height:12px;border-radius:2px;'
        f'background:{c};margin:0 5px -1px 0"></span>{esc(n)}</span>'
        for n, c in zip(spec.classes, spec.colours, strict=False)
    ]
    return f'<p class="note" style="display:flex;flex-wrap:wrap;gap:4px 14px;max-width:none">{"".join(spots)}</p>'
