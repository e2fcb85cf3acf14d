"""Typed input adaptation: what a Batch has becomes what the weights saw, or the batch is refused in words.

seen = clip((convert(x, unit) * gain + bias - mean) / std). An invalid pixel becomes 0 after normalisation (the mean of
the training data). Every liberty (another sensor, nearest band, SAR as optical) is a named policy that the run states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from swath.core import Batch, EncoderSpec, Input, Layer, Sensor, UserError, convert
from swath.core.sensors import SENSORS


@dataclass(frozen=True)
class Adaptation:
    """The liberties a run takes. The default takes none.

    `substitute` maps a sensor that the encoder declares to the one the batch holds. `bands`: `exact` needs the declared
    bands, `nearest` takes the band with the closest centre within `max_nm`, `mean` fills a band that is missing with
    its mean (0 after normalisation). `sar`: `vv-vh-vv` gives radar to a three-band optical encoder. `only` picks.
    """

    substitute: dict[str, str] = field(default_factory=dict[str, str])
    bands: Literal["exact", "nearest", "mean"] = "exact"
    max_nm: float = 40.0
    sar: Literal["refuse", "vv-vh-vv"] = "refuse"
    only: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class View:
    """One input as the weights saw it: normalised `x (B, T, C, H, W)`, validity, dates, and what the bands are."""

    input: Input
    x: Tensor
    valid: Tensor
    times: Tensor | None
    sensor: Sensor
    present: tuple[bool, ...]
    notes: tuple[str, ...] = ()

    @property
    def gsd(self) -> float:
        return self.sensor.gsd

    @property
    def seen(self) -> Tensor:
        """(B, T) bool: timesteps with at least one valid pixel."""
        return self.valid.flatten(2).any(2)


def prepare(batch: Batch, spec: EncoderSpec, adaptation: Adaptation, dtype: torch.dtype) -> dict[str, View]:
    """The inputs of the spec that the batch can serve, by declared sensor id; refuses when there is none."""
    views: dict[str, View] = {}
    for want in spec.inputs:
        source = adaptation.substitute.get(want.sensor, want.sensor)
        if adaptation.only and want.sensor not in adaptation.only:
            continue
        if source in batch.layers:
            if spec.any_bands:
                want = _held(batch.layers[source], want)
            views[want.sensor] = view(batch.layers[source], want, adaptation, spec.name, dtype)
        elif want.required:
            raise UserError(
                f"{spec.name} needs {want.sensor}; the batch has {', '.join(batch.layers) or 'no layers'}",
                where=f"encoder {spec.name}",
                remedy=f"add that layer, or {_substitute(want.sensor, batch)}",
            )
    if not views and spec.any_bands:
        views = {k: free_view(v, spec, dtype) for k, v in batch.layers.items() if _usable(v, adaptation)}
    if not views and adaptation.sar == "vv-vh-vv":
        views = _radar_as_optical(batch, spec, dtype)
    if not views:
        declared = ", ".join(i.sensor for i in spec.inputs) or "any sensor with wavelengths"
        raise UserError(
            f"{spec.name} takes {declared}; the batch has {', '.join(batch.layers) or 'no layers'}",
            where=f"encoder {spec.name}",
            remedy=f"choose data of a declared sensor, set `encoder.sensor` where the encoder has one, or "
            f"{_substitute(next((i.sensor for i in spec.inputs), 'SENSOR'), batch)}",
        )
    return views


def _substitute(sensor: str, batch: Batch) -> str:
    return f"take another in its place: adaptation.substitute.{sensor}={next(iter(batch.layers), 'SENSOR')}"


def _held(layer: Layer, want: Input) -> Input:
    """For an encoder of any bands: the declared bands that the layer has, with their statistics."""
    have = [b.name for b in layer.sensor.bands]
    at = [i for i, name in enumerate(want.bands) if name in have]
    if not at or len(at) == len(want.bands):
        return want
    pick = lambda values: tuple(values[i] for i in at) if values else ()  # noqa: E731
    return replace(want, bands=pick(want.bands), mean=pick(want.mean), std=pick(want.std))


def _usable(layer: Layer, adaptation: Adaptation) -> bool:
    return not adaptation.only or layer.sensor.id in adaptation.only


def choose(layer: Layer, want: Input, adaptation: Adaptation, who: str) -> tuple[list[int | None], tuple[str, ...]]:
    """For every declared band the index in the layer (None: filled with its mean), and notes on each liberty."""
    index: list[int | None] = []
    notes: list[str] = []
    target = SENSORS.get(want.sensor)
    known = {n.lower(): i for i, b in enumerate(layer.sensor.bands) for n in (b.name, *b.aliases)}
    same = layer.sensor.id == want.sensor
    for name in want.bands:
        at = known.get(target.band(name).name.lower()) if same or adaptation.bands == "exact" else None
        if at is None and adaptation.bands == "nearest":
            match = layer.sensor.nearest(target.select([name]), adaptation.max_nm)
            if name_pairs := list(match.pairs.values()):
                found, distance = name_pairs[0]
                at = layer.sensor.index(found)
                notes.append(f"{want.sensor} {name} <- {layer.sensor.id} {found} ({distance:.0f} nm apart)")
        if at is None and adaptation.bands == "mean":
            notes.append(f"{want.sensor} {name} is missing: filled with its mean")
        elif at is None:
            raise UserError(
                f"{who} needs the band {name} of {want.sensor}; the layer has {', '.join(layer.sensor.names)}",
                where=f"layer {layer.sensor.id}",
                remedy="read that band, or take another in its place: adaptation.bands=nearest (or =mean)",
            )
        index.append(at)
    if not same:
        notes.insert(0, f"{want.sensor} <- {layer.sensor.id} (substitute)")
    return index, tuple(notes)


def view(layer: Layer, want: Input, adaptation: Adaptation, who: str, dtype: torch.dtype) -> View:
    """One layer as one declared input; the unit `own` is each declared band's unit in its sensor's file."""
    index, notes = choose(layer, want, adaptation, who)
    filled = [0 if i is None else i for i in index]
    x = layer.x[:, :, filled].float()
    units = [layer.sensor.bands[i].unit for i in filled]
    declared = SENSORS.get(want.sensor)
    wanted = [declared.band(n).unit if want.unit == "own" else want.unit for n in want.bands]
    where = f"{who}, layer {layer.sensor.id}"
    if len({*zip(units, wanted, strict=True)}) == 1:
        x = convert(x, units[0], wanted[0], where=where)
    else:
        x = torch.stack(
            [convert(x[:, :, i], *u, where=where) for i, u in enumerate(zip(units, wanted, strict=True))], 2
        )
    x = normalise(x, want)
    present = tuple(i is not None for i in index)
    if not all(present):
        x = x * torch.tensor(present, dtype=x.dtype, device=x.device).view(-1, 1, 1)
    x = torch.where(layer.valid, x, torch.zeros((), dtype=x.dtype, device=x.device))
    sensor = declared.select(want.bands)
    if layer.sensor.gsd != sensor.gsd:
        sensor = replace(sensor, bands=tuple(replace(b, gsd=layer.sensor.gsd) for b in sensor.bands))
    return View(want, x.to(dtype), layer.valid, layer.times, sensor, present, notes)


def normalise(x: Tensor, want: Input) -> Tensor:
    """(x * gain + bias - mean) / std, clipped; bands on the third axis from the right."""
    y = x * want.gain + want.bias if (want.gain, want.bias) != (1.0, 0.0) else x
    if want.mean:
        y = y - torch.tensor(want.mean, dtype=y.dtype, device=y.device).view(-1, 1, 1)
    if want.std:
        y = y / torch.tensor(want.std, dtype=y.dtype, device=y.device).view(-1, 1, 1)
    return y.clamp(*want.clip) if want.clip else y


def standard_input(sensor: str, bands: Sequence[str] = ()) -> Input:
    """These bands (or all) of a known sensor in their own units, standardised by the sensor's statistics."""
    known = SENSORS.get(sensor)
    chosen = known.select(bands) if bands else known
    unknown = [b.name for b in chosen.bands if b.mean is None or b.std is None]
    if unknown:
        rest = ", ".join(b.name for b in chosen.bands if b.name not in unknown)
        raise UserError(
            f"the statistics of {', '.join(unknown)} are not known",
            where=f"sensor {sensor}",
            remedy=f"leave them out: encoder.bands=[{rest}]; or add mean and std to the sensor's file",
        )
    mean, std = tuple(float(b.mean or 0) for b in chosen.bands), tuple(float(b.std or 1) for b in chosen.bands)
    return Input(sensor, chosen.names, "own", mean, std)


def by_own_statistics(spec: EncoderSpec, batch: Batch) -> EncoderSpec:
    """Inputs in `own` units standardised by what the batch's bands say (a run's own mean and deviation), for encoders
    whose weights were not made with fixed ones; bands that say nothing, or in another unit, leave an input as it is."""
    return replace(spec, inputs=tuple(_own(want, batch.layers.get(want.sensor)) for want in spec.inputs))


def _own(want: Input, layer: Layer | None) -> Input:
    if layer is None or want.unit != "own" or not set(want.bands) <= set(layer.sensor.names):
        return want
    bands, declared = [layer.sensor.band(n) for n in want.bands], SENSORS.get(want.sensor)
    if any(b.mean is None or b.std is None or b.unit != declared.band(b.name).unit for b in bands):
        return want
    return replace(want, mean=tuple(float(b.mean or 0) for b in bands), std=tuple(float(b.std or 1) for b in bands))


def free_view(layer: Layer, spec: EncoderSpec, dtype: torch.dtype) -> View:
    """A layer for an encoder of any bands: standardised by the sensor's own statistics, where it has them."""
    bands = layer.sensor.bands
    unknown = [b.name for b in bands if b.mean is None or b.std is None]
    if unknown:
        raise UserError(
            f"{spec.name} standardises by the sensor's statistics, and {', '.join(unknown)} has none",
            where=f"layer {layer.sensor.id}",
            remedy="add mean and std to the sensor's file, or drop these bands",
        )
    mean, std = tuple(float(b.mean or 0) for b in bands), tuple(float(b.std or 1) for b in bands)
    want = Input(layer.sensor.id, layer.sensor.names, bands[0].unit, mean, std)
    zero = torch.zeros((), device=layer.x.device)
    x = torch.where(layer.valid, normalise(layer.x.float(), want), zero)
    return View(want, x.to(dtype), layer.valid, layer.times, layer.sensor, (True,) * len(bands))


def _radar_as_optical(batch: Batch, spec: EncoderSpec, dtype: torch.dtype) -> dict[str, View]:
    """The named policy `vv-vh-vv`: radar standardised by its own statistics in the place of red, green, blue."""
    want = next((i for i in spec.inputs if len(i.bands) == 3), None)
    layer = next((v for v in batch.layers.values() if {"vv", "vh"} <= set(v.sensor.names)), None)
    if want is None or layer is None:
        return {}
    radar = free_view(layer.select(["vv", "vh"]), spec, dtype)
    x = radar.x[:, :, [0, 1, 0]]
    note = f"{want.sensor} <- {layer.sensor.id} as (vv, vh, vv)"
    return {want.sensor: replace(radar, input=want, x=x, present=(True,) * 3, notes=(note,))}


def single(views: Mapping[str, View], who: str) -> View:
    """The one view of an encoder that looks at one sensor at a time."""
    if len(views) > 1:
        raise UserError(
            f"{who} looks at one sensor at a time and the batch has {', '.join(views)}",
            where=f"encoder {who}",
            remedy="pick one: Adaptation(only=('...',))",
        )
    return next(iter(views.values()))
