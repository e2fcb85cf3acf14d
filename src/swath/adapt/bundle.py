"""Bundle: one folder (or `.swath` file, a zip of it) with all that a tuned model is: the input of predict, map, serve.

    bundle.json          card and recipe: bands, units, classes, tiling, calibration, metrics, provenance
    weights.safetensors  decoder, head and the encoder's delta (or the whole encoder when no named base is known)
    README.md            the model card

Loading runs no code of the bundle: JSON and safetensors only. A delta loads onto its base by the base's hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swath.adapt import delta
from swath.adapt.build import Recipe, assemble, trunk_of
from swath.adapt.doubt import laplace_spread
from swath.adapt.neighbours import Neighbours
from swath.adapt.task import TaskModule
from swath.adapt.uncertainty import conformal
from swath.adapt.uncertainty.calibration import entropy
from swath.adapt.uncertainty.laplace import Laplace
from swath.adapt.uncertainty.strange import Mahalanobis
from swath.core.batch import Batch, Layer
from swath.core.config import parse, plain
from swath.core.contracts import Input, LabelSpec
from swath.core.device import usable
from swath.core.errors import SwathWarning, UserError
from swath.core.units import convert
from swath.models import build_encoder
from swath.models.layers.undrawn import undrawn

SCHEMA = 1
FORMAT = 2
"""Counted up when a head gets other tensors, or the same tensors another meaning. 1: before pixels were whitened,
objects had masks drawn at cells' centres and timm's maps were taken before their last norm (2026-11-21)."""
FILES = ("bundle.json", "weights.safetensors", "README.md")
_LARGEST, _SWOLLEN = 64 * 2**30, 2**24
"""No file of an archive is larger than the first, nor ten times what it takes of the archive above the second."""


@dataclass(frozen=True)
class BandCard:
    """One band that the model reads, in the unit in which a Layer holds it."""

    name: str
    unit: str
    nm: float | None = None
    gsd: float = 10.0
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class InputCard:
    """One sensor: bands in order, and how many dates the model saw in training."""

    sensor: str
    kind: str
    bands: tuple[BandCard, ...]
    dates: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Tiling:
    """How to cut a scene: side of a tile, what it must be a multiple of, and the halo whose answers are dropped."""

    tile: int = 224
    multiple: int = 1
    halo: int = 0


@dataclass(frozen=True)
class Calibration:
    """Temperature, errors before and after, conformal threshold with the coverage it reached, OOD and Laplace flags."""

    temperature: float = 1.0
    ece_before: float | None = None
    ece: float | None = None
    alpha: float | None = None
    conformal: float | None = None
    coverage: float | None = None
    set_size: float | None = None


@dataclass(frozen=True)
class Root:
    """The encoder beneath: the hash of its tensors, where the weights came from, their licence."""

    sha256: str = ""
    weights: str = ""
    licence: str = "unknown"
    whole: bool = True


@dataclass(frozen=True)
class Card:
    """What a bundle says of itself. `digest` is the sha256 of recipe and weights."""

    name: str
    task: str
    label: LabelSpec
    inputs: tuple[InputCard, ...]
    tuning: str
    encoder: str
    base: Root = field(default_factory=Root)
    tiling: Tiling = field(default_factory=Tiling)
    calibration: Calibration = field(default_factory=Calibration)
    metrics: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    cost: dict[str, float] = field(default_factory=dict[str, float])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    licence: str = "unknown"
    digest: str = ""


class Bundle:
    """A tuned model that can be saved, loaded, asked and merged. `inputs`, `label`, `digest` are what mapping needs."""

    def __init__(self, card: Card, recipe: Recipe, task: TaskModule, extra: Mapping[str, Tensor] | None = None) -> None:
        self.card, self.recipe, self.task = card, recipe, task.eval()
        self.extra = dict(extra or {})
        self.strange, self.laplace = Mahalanobis.of(self.extra), Laplace.of(self.extra)

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def label(self) -> LabelSpec:
        """What it answers with; the card's is what it was tuned on."""
        return self.task.answers

    @property
    def digest(self) -> str:
        return self.card.digest

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Sensor, bands and units to read, in order."""
        return tuple(
            Input(i.sensor, tuple(b.name for b in i.bands), i.bands[0].unit if i.bands else "")
            for i in self.card.inputs
        )

    def to(self, device: str | torch.device) -> Bundle:
        self.task.to(usable(device))
        return self

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the model wants it: these sensors, these bands in this order, these units; else a named error.

        A sensor may be missing when another one is there: the model then says what it can.
        """
        layers: dict[str, Layer] = {}
        for want in self.card.inputs:
            layer = batch.layers.get(want.sensor)
            if layer is None:
                continue
            layer = layer.select([b.name for b in want.bands])
            if layer.shape[1] > want.dates[1]:
                raise UserError(
                    f"{want.sensor} comes with {layer.shape[1]} dates; the model saw {want.dates[1]} at most",
                    where=f"bundle {self.name}",
                    remedy="select the dates to use, or tune on series",
                )
            if self.task.every_date and layer.shape[1] < want.dates[0]:
                raise UserError(
                    f"{want.sensor} comes with {layer.shape[1]} date; '{self.card.task}' compares {want.dates[0]}",
                    where=f"bundle {self.name}",
                    remedy="give an image of each date (folders by date, or names such as KEY_20240501.tif)",
                )
            layers[want.sensor] = _in_units(layer, want, self.name)
        if not layers:
            needs = ", ".join(f"{i.sensor} ({', '.join(b.name for b in i.bands)})" for i in self.card.inputs)
            raise UserError(f"the model takes {needs}; given: {', '.join(batch.layers) or 'nothing'}",
                            where=f"bundle {self.name}")  # fmt: skip
        return Batch(layers, batch.where, batch.labels)

    @torch.no_grad()
    def predict(self, batch: Batch, uncertainty: bool = False) -> dict[str, Tensor]:
        """`probabilities` (B, K[, H, W]) and `classes`, or `values`; with `uncertainty` also what stands in `doubt`."""
        ready = self.prepare(batch)
        if not uncertainty:
            return self.task.predict(ready)
        features = self.task.features(ready)
        out = self.task.tell(features, ready)[1]
        spread = {} if self.laplace is None else laplace_spread(self.task, self.laplace, (features, ready), out)
        return out | self.doubt(out) | spread | self._strangeness(features.maps[-1], features.pooled, out)

    def doubt(self, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entropy and conformal sets of classes, or conformal intervals of values."""
        q, found = self.card.calibration.conformal, dict[str, Tensor]()
        if "classes" in out and "probabilities" in out:
            found["entropy"] = entropy(out["probabilities"])
            if q is not None:
                found["sets"] = conformal.class_sets(out["probabilities"], q)
        elif "values" in out and q is not None:
            found["low"], found["high"] = conformal.interval(
                out["values"], q, out.get("std"), out.get("low"), out.get("high")
            )
        return found

    def _strangeness(self, deepest: Tensor, pooled: Tensor, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.strange is None:
            return {}
        main = out.get("probabilities", out.get("values"))
        if main is None or main.ndim < 4:
            return {"strangeness": self.strange.score(pooled)}
        cells = self.strange.score(deepest.movedim(1, -1))[:, None]
        size = (main.shape[-2], main.shape[-1])
        return {"strangeness": nn.functional.interpolate(cells, size, mode="bilinear", align_corners=False)[:, 0]}

    # --- files

    def state(self, base: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """The tensors to store: everything, or without the encoder's tensors that equal those of `base`."""
        own = {f"task.{k}": v.detach().cpu().contiguous() for k, v in self.task.state_dict().items()}
        if base is not None:
            trunk, prefix = trunk_of(self.task), "task." + _trunk_prefix(self.task)
            kept = {prefix + k for k in delta.changes(trunk, base)}
            own = {k: v for k, v in own.items() if not k.startswith(prefix) or k in kept}
        return {k: v.clone() for k, v in own.items()} | {f"extra.{k}": v.contiguous() for k, v in self.extra.items()}

    def save(self, folder: str | Path, base: Mapping[str, str] | None = None) -> Bundle:
        """Write the folder in one move; with `base` (name -> sha256 of the base's tensors) only the delta is stored."""
        from safetensors.torch import save

        place = Path(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = save(self.state(base))
        whole = replace(self.card.base, whole=base is None)
        card = replace(self.card, base=whole, digest="")
        body = {"schema": SCHEMA, "format": FORMAT, "recipe": plain(self.recipe), "card": plain(card)}
        text = json.dumps(body["recipe"], sort_keys=True).encode()
        self.card = replace(card, digest=hashlib.sha256(text + hashlib.sha256(blob).digest()).hexdigest())
        body["card"] = plain(self.card)
        body["weights_sha256"] = hashlib.sha256(blob).hexdigest()
        body["seal"] = seal_of(body)
        tmp = Path(tempfile.mkdtemp(dir=place.parent, prefix=".bundle-"))
        try:
            (tmp / FILES[0]).write_text(json.dumps(body, indent=1, allow_nan=False), encoding="utf-8")
            (tmp / FILES[1]).write_bytes(blob)
            (tmp / FILES[2]).write_text(model_card(self.card), encoding="utf-8")
            os.chmod(tmp, 0o755)
            if place.exists():
                shutil.rmtree(place)
            os.replace(tmp, place)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise
        return self

    @classmethod
    def load(cls, path: str | Path, base: nn.Module | str | Path | None = None) -> Bundle:
        """From a folder or a `.swath` file. A delta needs its base: found by the card's record, or given (an encoder
        to share, or a weights file); its hash must be the card's."""
        body, blob, where = read_files(Path(path))
        card = parse(body["card"], Card, where=where)
        try:
            recipe = parse(body["recipe"], Recipe, where=where)
        except UserError as why:
            raise _misfit(why.what, body, where) from why
        tensors = _tensors(blob, where)
        torch.manual_seed(0)
        with undrawn():  # every tensor is in the bundle or in its base, or nothing is loaded
            trunk = _base_for(card, recipe, base, where)
            task = assemble(recipe, trunk)
        given = {k.removeprefix("task."): v for k, v in tensors.items() if k.startswith("task.")}
        head = getattr(task, "head", None)
        if isinstance(head, Neighbours):
            head.fit_to(len(given["head.bank"]))
        state = task.state_dict()
        left = [k for k in given if k not in state or state[k].shape != given[k].shape]
        prefix = _trunk_prefix(task)
        lost = [k for k in state if k not in given and (card.base.whole or not k.startswith(prefix))]
        if left or lost:
            raise _misfit(f"{len(lost)} tensors missing, {len(left)} unexpected ({', '.join([*lost, *left][:3])})",
                          body, where)  # fmt: skip
        if format_of(body) < FORMAT:
            warnings.warn(f"{where} is of format {format_of(body)}, this Swath writes {FORMAT}: it loads, and may not "
                          "answer quite as when it was tuned", SwathWarning, stacklevel=2)  # fmt: skip
        task.load_state_dict({**state, **given})
        if isinstance(base, nn.Module):
            delta.share(trunk_of(task), base)
        task.requires_grad_(False)
        extra = {k.removeprefix("extra."): v for k, v in tensors.items() if k.startswith("extra.")}
        return cls(card, recipe, task, extra)

    def pack(self, file: str | Path, folder: str | Path) -> Path:
        """The folder as one `.swath` file (a zip without compression: weights are read as they lie)."""
        target = Path(file)
        part = target.with_name(target.name + ".part")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as out:
            for name in FILES:
                out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), (Path(folder) / name).read_bytes())
        os.replace(part, target)
        return target

    def merge(self) -> Bundle:
        """The same model with its adapters folded into plain weights (those that are linear; others stay), whole."""
        trunk = trunk_of(self.task)
        merged = self.recipe.tuning.merge(trunk)
        if self.task.encoder is trunk:
            self.task.encoder = merged
        from swath.adapt.tuning.frozen import Frozen

        if type(self.recipe.tuning).exact:
            self.recipe = replace(self.recipe, tuning=Frozen())
        self.card = replace(self.card, base=replace(self.card.base, whole=True))
        return self


def seal_of(body: Mapping[str, Any]) -> str:
    """sha256 of all that bundle.json says, so that a number changed in it is noticed."""
    said = {k: v for k, v in body.items() if k != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _tensors(blob: bytes, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(blob)
    except (SafetensorError, ValueError, KeyError) as why:
        raise UserError(f"weights.safetensors holds no tensors: {why}", where=where) from why


def format_of(body: Mapping[str, Any]) -> int:
    """The format of a bundle's weights; those before formats were written down are of the first."""
    found = body.get("format", 1)
    return found if isinstance(found, int) else 0


def _misfit(why: str, body: Mapping[str, Any], where: str) -> UserError:
    """An old bundle, or one whose parts are not of one making."""
    if format_of(body) >= FORMAT:
        return UserError(
            f"the weights do not fit the recipe: {why}",
            where=where,
            remedy="the bundle was changed after it was written: take it anew from where it came from",
        )
    task = body["card"].get("task", "")
    return UserError(
        f"a bundle of format {format_of(body)}, and '{task}' of this Swath is of format {FORMAT}: {why}",
        where=where,
        remedy="tune it again (record.json beside the bundle holds its run), or use the Swath that wrote it",
    )


def _trunk_prefix(task: TaskModule) -> str:
    return "encoder." if trunk_of(task) is task.encoder else "encoder.encoder."


def _in_units(layer: Layer, want: InputCard, name: str) -> Layer:
    units = {b.name: b.unit for b in want.bands}
    if all(b.unit == units[b.name] for b in layer.sensor.bands):
        return layer
    where = f"bundle {name}, layer {layer.sensor.id}"
    x = torch.stack(
        [convert(layer.x[:, :, i], b.unit, units[b.name], where=where) for i, b in enumerate(layer.sensor.bands)], 2
    )
    bands = tuple(replace(b, unit=units[b.name]) for b in layer.sensor.bands)  # type: ignore[arg-type]
    return replace(layer, sensor=replace(layer.sensor, bands=bands), x=x)


def _base_for(card: Card, recipe: Recipe, base: nn.Module | str | Path | None, where: str) -> nn.Module:
    """A fresh encoder with the base's values; checked against the card's hash when the bundle is a delta."""
    if card.base.whole:
        return build_encoder(recipe.encoder, adaptation=recipe.adaptation)
    if isinstance(base, nn.Module):
        encoder = build_encoder(recipe.encoder, adaptation=recipe.adaptation)
        encoder.load_state_dict(base.state_dict())
    else:
        source = str(base) if base is not None else card.base.weights
        encoder = build_encoder(recipe.encoder, weights=source, adaptation=recipe.adaptation, exceptions=("*",))
    found = delta.hash_of(delta.fingerprints(encoder))
    if found != card.base.sha256:
        raise UserError(
            f"the base's tensors have the hash {found[:16]}..., the delta was made on {card.base.sha256[:16]}...",
            where=where,
            remedy=f"give the base it was tuned from: {card.base.weights or 'the encoder of that run'}",
        )
    return encoder


def read_files(path: Path) -> tuple[dict[str, Any], bytes, str]:
    """bundle.json as data and the bytes of the weights, checked against their sum; refuses anything else."""
    where = str(path)
    try:
        if path.is_dir():
            text, blob = (path / FILES[0]).read_text(encoding="utf-8"), (path / FILES[1]).read_bytes()
        elif path.is_file():
            with zipfile.ZipFile(path) as archive:
                held = archive.infolist()
                if any(i.filename not in FILES or i.file_size > _LARGEST for i in held):
                    raise UserError("the archive holds files that are no part of a bundle", where=where)
                if any(i.file_size > max(_SWOLLEN, 10 * i.compress_size) for i in held):
                    raise UserError("the archive unpacks to many times its size: no weights do", where=where)
                text, blob = archive.read(FILES[0]).decode(), archive.read(FILES[1])
        else:
            raise UserError("there is no such bundle", where=where, remedy="give a bundle folder or a .swath file")
        body = json.loads(text)
    except (
        KeyError,
        OSError,
        ValueError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as why:  # the last but one: encrypted, deep
        raise UserError(f"this is no bundle: {why}", where=where) from why
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise UserError("a bundle of another schema", where=where, remedy=f"this Swath reads schema {SCHEMA}")
    if format_of(body) > FORMAT:
        raise UserError(f"a bundle of format {format_of(body)}; this Swath reads formats up to {FORMAT}", where=where,
                        remedy="it was written by a newer Swath: use that one")  # fmt: skip
    lacks = [k for k in ("card", "recipe") if not isinstance(body.get(k), dict)]
    if lacks:
        raise UserError(f"this is no bundle: bundle.json has no '{lacks[0]}'", where=where)
    if body.get("seal", seal_of(body)) != seal_of(body):
        raise UserError("bundle.json was changed after it was written: it does not fit its seal", where=where,
                        remedy="take it anew from where it came from, or tune again")  # fmt: skip
    found = hashlib.sha256(blob).hexdigest()
    if found != body.get("weights_sha256"):
        raise UserError("weights.safetensors is damaged: its sha256 is not the card's", where=where)
    return body, blob, where


def read_card(path: str | Path) -> Card:
    """The card alone."""
    body, _, where = read_files(Path(path))
    return parse(body["card"], Card, where=where)


def open_card(path: str | Path) -> dict[str, Any]:
    """The card as plain data, for programs."""
    return plain(read_card(path))


Kind = Literal["whole", "delta"]


def model_card(card: Card) -> str:
    """README.md of a bundle."""
    rows = [f"# {card.name}", "", f"Task: {card.task}, tuned `{card.tuning}` on `{card.encoder}`.", "", "## Takes", ""]
    for i in card.inputs:
        bands = ", ".join(f"{b.name} [{b.unit}]" for b in i.bands)
        rows.append(f"- {i.sensor}, {i.dates[0]} to {i.dates[1]} dates: {bands}")
    what = ", ".join(card.label.classes) or card.label.unit
    rows += ["", "## Gives", "", f"{card.label.kind} `{card.label.name}`: {what}", "", "## Scores", ""]
    rows += [f"- {k}: {v:.4g}" for k, v in card.metrics.items() if v is not None and "/" not in k]
    c = card.calibration
    if c.conformal is not None and c.alpha is not None and c.coverage is not None:
        rows += ["", f"Conformal at {1 - c.alpha:.0%}: coverage reached {c.coverage:.1%} on held-out data."]
    rows += [
        "",
        "## Licence and provenance",
        "",
        f"Licence of the base: {card.base.licence}. Base hash: `{card.base.sha256}`.",
    ]
    rows += [f"- {k}: {v}" for k, v in card.provenance.items() if not isinstance(v, (dict, list))]
    return "\n".join(rows) + "\n"
