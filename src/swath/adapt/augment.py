"""Augmentation of a whole sample: every layer, date and label moves together, and values stay physical.

Geometry (flips, quarter turns, crops, scale) acts on all layers at their own gsd and on labels; radiometry is a gain
and a haze that all optical bands share, and speckle on radar; no hue is ever turned. Each draw has its address
(seed, epoch, sample key), so workers and resumes change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.adapt.mix import Partners, mixed
from swath.core.batch import Batch, Boxes, Label, Layer, Where
from swath.core.config import bounded
from swath.core.errors import UserError
from swath.core.rng import generator

Change = Callable[[Tensor], Tensor]


SHARES = ("gain", "band_drop", "date_drop", "sensor_drop")


@dataclass(frozen=True)
class Augment:
    """Probabilities and strengths; zeros everywhere leave samples as they are.

    `crop` is in pixels of the finest layer; `scale` s zooms by a factor in 1..1+s; `gain` g multiplies optical bands by
    1 +- g; `haze` h adds up to h reflectance, strongest in the blue; `speckle` multiplies radar power by gamma noise of
    that many looks. `*_drop` hide a band, a date or a sensor (never the last one).
    """

    flips: bool = False
    turns: bool = False
    crop: int = 0
    scale: float = 0.0
    gain: float = 0.0
    haze: float = 0.0
    speckle: float = 0.0
    band_drop: float = 0.0
    date_drop: float = 0.0
    sensor_drop: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        bounded(self, "augment", {f.name: (0.0, 1.0 if f.name in SHARES else math.inf) for f in fields(self)})

    @property
    def still(self) -> bool:
        """Whether nothing would change."""
        return self == Augment()

    @property
    def mixing(self) -> dict[str, float]:
        return {"mixup": self.mixup, "cutmix": self.cutmix}

    def transform(self, seed: int, partners: Partners | None = None) -> Augmented | None:
        """The transform of a run; mixing needs the training split that partners come from."""
        return None if self.still else Augmented(self, seed, partners)


@dataclass(frozen=True)
class Augmented:
    """The transform of a run: `(sample, epoch) -> sample`."""

    config: Augment
    seed: int
    partners: Partners | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        return repr(self)

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        c, key = self.config, int(batch.where.key[0])
        if self.partners is None or not (c.mixup or c.cutmix):
            return self.alone(batch, epoch)
        other = self.partners.of(generator(self.seed, epoch, key, "partner"))
        found = self.partners, self.alone(other, epoch)
        return mixed(self.alone(batch, epoch), epoch, self.seed, (c.mixup, c.cutmix), found)

    def alone(self, batch: Batch, epoch: int) -> Batch:
        """All but mixing."""
        g = generator(self.seed, epoch, int(batch.where.key[0]), "augment")
        draw = torch.rand(10, generator=g).tolist()
        c = self.config
        if c.crop:
            batch = crop(batch, c.crop, draw[0], draw[1])
        if c.scale:
            batch = zoom(batch, 1 + c.scale * draw[2], draw[0], draw[1])
        if c.flips and draw[3] < 0.5:
            batch = mirror(batch)
        if c.flips and draw[4] < 0.5:
            batch = turn(mirror(batch), 2)
        if c.turns:
            batch = turn(batch, int(draw[5] * 4))
        return drop(radiometry(batch, c, g), c, g)


def move(batch: Batch, change: Change, boxes: Callable[[Boxes, tuple[int, int]], Boxes]) -> Batch:
    """Apply a change of the last two axes to everything that has them; a sample's grid no longer holds then."""
    layers = {k: replace(v, x=change(v.x), valid=change(v.valid)) for k, v in batch.layers.items()}
    labels: dict[str, Label] = {}
    for name, label in batch.labels.items():
        if label.kind == "boxes":
            size = (int(label.value[0, 0]), int(label.value[0, 1]))
            labels[name] = replace(label, objects=tuple(boxes(o, size) for o in label.objects))
        elif label.value.ndim >= 3:
            labels[name] = replace(label, value=change(label.value), valid=change(label.valid))
        else:
            labels[name] = label
    where = Where(batch.where.key, batch.where.lonlat, names=batch.where.names)
    return Batch(layers, where, labels)


def mirror(batch: Batch) -> Batch:
    """Left becomes right."""

    def boxes(o: Boxes, size: tuple[int, int]) -> Boxes:
        x0, y0, x1, y1 = o.xyxy.unbind(1)
        return Boxes(
            torch.stack([size[1] - x1, y0, size[1] - x0, y1], 1),
            o.classes,
            None if o.masks is None else o.masks.flip(-1),
        )

    return move(batch, lambda t: t.flip(-1), boxes)


def turn(batch: Batch, quarters: int) -> Batch:
    """Quarter turns; samples that are not square turn by halves only."""
    square = all(v.shape[3] == v.shape[4] for v in batch.layers.values())
    k = quarters % 4 if square else (quarters % 4) // 2 * 2
    if not k:
        return batch

    def boxes(o: Boxes, size: tuple[int, int]) -> Boxes:
        xyxy, (h, w) = o.xyxy, size
        for _ in range(k):
            x0, y0, x1, y1 = xyxy.unbind(1)
            xyxy = torch.stack([y0, w - x1, y1, w - x0], 1)
            h, w = w, h
        return Boxes(xyxy, o.classes, None if o.masks is None else o.masks.rot90(k, (-2, -1)))

    return move(batch, lambda t: t.rot90(k, (-2, -1)), boxes)


def crop(batch: Batch, size: int, u: float, v: float) -> Batch:
    """A square of `size` pixels of the finest layer, cut on whole pixels of the coarsest one."""
    shapes = {k: (x.shape[3], x.shape[4]) for k, x in batch.layers.items()}
    shapes |= {f"label {k}": _label_size(x) for k, x in batch.labels.items() if _label_size(x) != (0, 0)}
    fine, coarse = max(shapes.values()), min(s for s in shapes.values() if min(s) > 1)
    if size > min(fine):
        raise UserError(f"a crop of {size} pixels does not fit in {fine}", where="augment.crop")
    step = fine[0] // coarse[0]
    if fine[0] % coarse[0] or size % step:
        raise UserError(f"the layers' sizes {shapes} do not divide; a crop of {size} would shift them", where="augment")
    r = int(u * ((fine[0] - size) // step + 1)) * step
    c = int(v * ((fine[1] - size) // step + 1)) * step

    def cut(t: Tensor) -> Tensor:
        k = fine[0] / t.shape[-2]
        if t.shape[-2] == 1:
            return t
        a, b, n = round(r / k), round(c / k), round(size / k)
        return t[..., a : a + n, b : b + n]

    def boxes(o: Boxes, _: tuple[int, int]) -> Boxes:
        shift = torch.tensor([c, r, c, r], dtype=o.xyxy.dtype)
        xyxy = (o.xyxy - shift).clamp(0, size)
        keep = ((xyxy[:, 2] - xyxy[:, 0]) > 1) & ((xyxy[:, 3] - xyxy[:, 1]) > 1)
        return Boxes(xyxy[keep], o.classes[keep], None if o.masks is None else cut(o.masks)[keep])

    out = move(batch, cut, boxes)
    sizes = {
        k: replace(x, value=torch.full_like(x.value, size)) if x.kind == "boxes" else x for k, x in out.labels.items()
    }
    return Batch(out.layers, out.where, sizes)


def _label_size(label: Label) -> tuple[int, int]:
    if label.kind == "boxes":
        return int(label.value[0, 0]), int(label.value[0, 1])
    return (label.value.shape[-2], label.value.shape[-1]) if label.value.ndim >= 3 else (0, 0)


def zoom(batch: Batch, factor: float, u: float, v: float) -> Batch:
    """Look closer by `factor` (>= 1) at a random place; classes and validity by the nearest pixel, boxes refused."""
    if any(x.kind == "boxes" for x in batch.labels.values()):
        raise UserError("scale does not move boxes", where="augment.scale", remedy="use crop for detection")

    def closer(t: Tensor) -> Tensor:
        h, w = t.shape[-2:]
        a, b = max(1, round(h / factor)), max(1, round(w / factor))
        r, c = int(u * (h - a + 1)), int(v * (w - b + 1))
        part = t[..., r : r + a, c : c + b]
        flat = part.reshape(-1, 1, a, b).float()
        smooth = t.is_floating_point()
        grown = (
            F.interpolate(flat, (h, w), mode="bilinear", align_corners=False) if smooth else F.interpolate(flat, (h, w))
        )
        return grown.reshape(t.shape).to(t.dtype)

    return move(batch, closer, lambda o, _: o)


def radiometry(batch: Batch, c: Augment, g: torch.Generator) -> Batch:
    """Gain and haze on reflectance, speckle on radar."""
    gain = 1 + c.gain * (2 * float(torch.rand(1, generator=g)) - 1)
    haze = c.haze * float(torch.rand(1, generator=g))
    layers = dict(batch.layers)
    for name, layer in batch.layers.items():
        x = layer.x
        if layer.sensor.kind == "optical" and (c.gain or c.haze):
            on = torch.tensor([b.unit == "reflectance" for b in layer.sensor.bands])
            # molecular scattering falls with the fourth power of the wavelength; aerosol is flatter
            fall = torch.tensor([(450.0 / b.nm) ** 2 if b.nm else 0.0 for b in layer.sensor.bands])
            x = torch.where(on.view(-1, 1, 1), x * gain + haze * fall.view(-1, 1, 1), x)
        if layer.sensor.kind == "sar" and c.speckle:
            draws = max(1, round(c.speckle))
            u = torch.rand((draws, *x.shape), generator=g).clamp_min(1e-12)
            power = -u.log().mean(0)
            bands = torch.tensor([b.unit == "db" for b in layer.sensor.bands]).view(-1, 1, 1)
            x = torch.where(bands, x + 10 / math.log(10) * power.log(), x * power)
        layers[name] = replace(layer, x=torch.where(layer.valid, x, layer.x))
    return Batch(layers, batch.where, batch.labels)


def drop(batch: Batch, c: Augment, g: torch.Generator) -> Batch:
    """Hide bands (their mean stands in), dates and sensors (invalid); one date and one sensor always stay."""
    layers: dict[str, Layer] = {}
    names = list(batch.layers)
    lost = [n for n in names if float(torch.rand(1, generator=g)) < c.sensor_drop]
    if len(lost) == len(names):
        lost.remove(lost[int(torch.randint(len(lost), (1,), generator=g))])
    for name, layer in batch.layers.items():
        x, valid = layer.x, layer.valid
        if c.band_drop:
            gone = torch.rand(x.shape[2], generator=g) < c.band_drop
            if not bool(gone.all()):
                mean = torch.where(valid, x, 0.0).sum((1, 3, 4), keepdim=True) / valid.sum(
                    (1, 3, 4), keepdim=True
                ).clamp_min(1)
                x = torch.where(gone.view(-1, 1, 1) & valid, mean, x)
        if c.date_drop and x.shape[1] > 1:
            gone = torch.rand(x.shape[1], generator=g) < c.date_drop
            if bool(gone.all()):
                gone[int(torch.randint(len(gone), (1,), generator=g))] = False
            valid = valid & ~gone.view(1, -1, 1, 1, 1)
        if name in lost:
            valid = torch.zeros_like(valid)
        layers[name] = replace(layer, x=x, valid=valid)
    return Batch(layers, batch.where, batch.labels)
