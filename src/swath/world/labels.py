"""What is to be known about a window: every kind of label, read off the state that the sensors are rendered from.

Labels describe the last day asked for; `change` compares the first day with the last, `yield` the whole season.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from swath.core import Boxes, Label, LabelSpec
from swath.world import things
from swath.world.catalog import COVERS, CROPS, ID, column
from swath.world.ground import Ground, canopy
from swath.world.moment import CROP_CODE, Moment, cover_on, look, standing
from swath.world.noise import Frame, Plane
from swath.world.sky import Sky

f32 = np.float32
LAND_COVER = {10: "tree cover", 20: "shrubland", 30: "grassland", 40: "cropland", 50: "built-up", 60: "bare or sparse",
              70: "snow and ice", 80: "water", 90: "wetland", 95: "mangroves", 100: "moss and lichen"}  # fmt: skip
_COLOURS = ("#1f6b2d", "#c8a951", "#b5d46a", "#f0a4e8", "#d62f27", "#b9a99a", "#f2f6f8", "#2b6cb0", "#4aa3a2",
            "#0f8a5f", "#d9d6a3")  # fmt: skip
_CROP_COLOURS = ("#e8e8e4", "#e0b93e", "#f1dd8d", "#f6ee22", "#7bbf3f", "#2e8b57", "#b05fb3", "#4fc3e8", "#fafafa",
                 "#9be06f", "#a1887f", "#e2725b", "#c5e1a5")  # fmt: skip
ZONES = ("compact high-rise", "compact mid-rise", "compact low-rise", "open high-rise", "open mid-rise",
         "open low-rise",
         "lightweight low-rise", "large low-rise", "sparsely built", "heavy industry", "dense trees", "scattered trees",
         "bush or scrub", "low plants", "bare rock or paved", "bare soil or sand", "water")  # fmt: skip
SCENES = ("annual crop", "forest", "herbaceous vegetation", "shrubland", "industrial", "pasture", "permanent crop",
          "residential", "river", "sea or lake", "bare land", "snow and ice", "wetland")  # fmt: skip
TAGS = (*LAND_COVER.values(), "river", "lake", "sea", "road", "residential", "industrial", "orchard", "paddy", "burned",
        "flooded")  # fmt: skip
YIELD = {"winter wheat": 7.6, "spring barley": 5.6, "rapeseed": 3.4, "maize": 9.5, "soybean": 3.1, "sugar beet": 70,
         "rice": 6.2, "cotton": 2.2, "sugarcane": 72}  # fmt: skip


@dataclass
class View:
    """What a label may look at: the window, the state over a wider frame, the days, and how labels are drawn."""

    frame: Frame
    ground: Ground
    moments: Mapping[int, Moment]
    skies: Callable[[int], Sky]
    days: Sequence[int]
    convention: float = 0.0

    @property
    def last(self) -> Moment:
        return self.moments[self.days[-1]]

    def cut(self, plane: Plane) -> Plane:
        """The window of a plane of the wider frame; another labelling convention draws it displaced."""
        off = round(3 * self.convention)
        wide = self.ground.frame
        top, left = self.frame.row - wide.row, self.frame.col - wide.col
        if off:
            plane = np.roll(plane, (off, -off), axis=(0, 1))
        return plane[top : top + self.frame.height, left : left + self.frame.width]


def _mask(value: Plane, valid: Plane | None = None) -> Label:
    v = torch.from_numpy(np.ascontiguousarray(value, dtype=np.int64))[None]
    ok = torch.ones_like(v, dtype=torch.bool) if valid is None else torch.from_numpy(valid.copy())[None]
    return Label("mask", v, ok)


def _map(value: Plane) -> Label:
    v = torch.from_numpy(np.ascontiguousarray(value, dtype=f32))[None, None]
    return Label("map", v, torch.ones_like(v, dtype=torch.bool))


def _class(value: int, valid: bool = True) -> Label:
    return Label("class", torch.tensor([value]), torch.tensor([valid]))


def _scalar(value: float, valid: bool = True) -> Label:
    return Label("scalar", torch.tensor([value], dtype=torch.float32), torch.tensor([valid]))


def _boxes(
    found: Sequence[tuple[float, float, float, float, int]], shape: tuple[int, int], masks: Plane | None
) -> Label:
    rows = np.array(found, f32).reshape(-1, 5)
    one = Boxes(torch.from_numpy(rows[:, :4].copy()), torch.from_numpy(rows[:, 4].astype(np.int64)),
                None if masks is None else torch.from_numpy(masks))  # fmt: skip
    return Label(
        "boxes", torch.tensor([[float(shape[0]), float(shape[1])]]), torch.ones(1, 2, dtype=torch.bool), (one,)
    )


def instances(ids: Plane, least: int = 4) -> Label:
    """One box and one mask for every positive id with at least `least` pixels."""
    values, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(ids.shape)
    found: list[tuple[float, float, float, float, int]] = []
    masks: list[Plane] = []
    for k, (value, count) in enumerate(zip(values, counts, strict=True)):
        if value == 0 or count < least:
            continue
        mask = inverse == k
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append((float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1), 0))
        masks.append(mask)
    stack = np.stack(masks) if masks else np.zeros((0, *ids.shape), bool)
    return _boxes(found, ids.shape, stack)


def _codes(scheme: Sequence[int]) -> Plane:
    table = np.zeros(256, np.int64)
    for i, code in enumerate(scheme):
        table[code] = i
    return table[column("worldcover")]


def land_cover(view: View) -> Label:
    cover = view.last.cover
    code = _codes(tuple(LAND_COVER))[cover]
    if view.convention >= 0.5:
        code = np.where(code == 1, 2, code)
        code = np.where(cover == ID["pasture"], 3, code)
        code = np.where(cover == ID["sparse"], 2, code)
    return _mask(view.cut(code))


def crop_type(view: View) -> Label:
    return _mask(view.cut(CROP_CODE[view.last.cover] * view.ground.farm))


def _main_crop(view: View) -> tuple[int, float]:
    codes = view.cut(CROP_CODE[view.last.cover] * view.ground.farm)
    counts = np.bincount(codes.ravel(), minlength=len(CROPS) + 1)[1:]
    return int(counts.argmax()), float(counts.max() / codes.size)


def crop(view: View) -> Label:
    main, share = _main_crop(view)
    return _class(main, share > 0.02)


def field_boundary(view: View) -> Label:
    edge, farm = view.cut(view.ground.edge), view.cut(view.ground.farm)
    rim = np.maximum(f32(1.1 * view.frame.gsd), f32(3.5))
    return _mask(np.where(edge < rim, 2, np.where(farm, 1, 0)))


def fields(view: View) -> Label:
    return instances(view.cut(view.ground.parcel), least=9)


def buildings(view: View) -> Label:
    up = standing(view.ground, view.days[-1])
    return instances(view.cut(np.where(up, view.ground.building, 0)), least=3)


def burn_scar(view: View) -> Label:
    return _mask(view.cut((view.last.severity > f32(0.2)) & (view.last.char > f32(0.02))))


def burn_severity(view: View) -> Label:
    return _map(view.cut(view.last.severity))


def flood(view: View) -> Label:
    water = view.last.cover <= ID["river"]
    wet = (view.last.flood > f32(0.5)) & (view.last.cover != ID["rice"]) & ~water
    return _mask(view.cut(np.where(water, 2, np.where(wet, 1, 0))))


def cloud(view: View) -> Label:
    s = view.skies(view.days[-1])
    code = np.where(s.cloud > f32(0.4), 1, np.where((s.cloud > f32(0.08)) | (s.cirrus > f32(0.04)), 2, 0))
    return _mask(view.cut(np.where((code == 0) & (s.shadow > f32(0.35)), 3, code)))


def local_climate_zone(view: View) -> Label:
    g = view.ground
    wild = column("lcz").astype(np.int64)[view.last.cover]
    return _mask(view.cut(np.where(g.lcz > 0, g.lcz, wild) - 1))


def canopy_height(view: View) -> Label:
    return _map(view.cut(canopy(view.ground, view.last.cover)[0]))


def biomass(view: View) -> Label:
    return _map(view.cut(canopy(view.ground, view.last.cover)[1]))


def objects(view: View) -> Label:
    return _boxes(things.boxes(view.ground.things, view.frame), view.frame.shape, None)


def change(view: View) -> Label:
    first, last = view.moments[view.days[0]], view.last
    was, now = cover_on(view.ground, first.day), cover_on(view.ground, last.day)
    roofs = (ID["building site"], ID["tile roof"], ID["grey roof"], ID["metal roof"])
    code = np.zeros(was.shape, np.int64)
    code[(now == ID["clear-cut"]) & (was != ID["clear-cut"])] = 1
    code[np.isin(now, roofs) & (was == ID["grassland"])] = 2
    code[(last.severity > f32(0.2)) & ~(first.severity > f32(0.2))] = 3
    code[(last.flood > f32(0.5)) & (first.flood <= f32(0.5)) & (now != ID["rice"])] = 4
    return _mask(view.cut(code))


def _shares(view: View) -> dict[str, float]:
    counts = np.bincount(view.cut(view.last.cover).ravel(), minlength=len(COVERS)) / (
        view.frame.height * view.frame.width
    )
    return {c.name: float(n) for c, n in zip(COVERS, counts, strict=True)}


def scene_class(view: View) -> Label:
    s = _shares(view)
    built = sum(s[n] for n in ("pavement", "tile roof", "grey roof", "metal roof", "lawn", "street trees"))
    works = float((view.cut(view.ground.lcz) == 8).mean())
    snow = float((view.cut(view.last.snow) > 0.6).mean())
    annual = sum(s[n] for n in CROPS if n not in ("orchard", "pasture"))
    scores = {
        "annual crop": annual, "forest": s["needleleaf"] + s["broadleaf"] + s["rainforest"] + s["mangrove"],
        "herbaceous vegetation": s["grassland"] + s["savanna"] + s["tundra"] + s["clear-cut"],
        "shrubland": s["shrubland"], "industrial": 2.0 * works, "pasture": 1.3 * s["pasture"],
        "permanent crop": 1.6 * s["orchard"], "residential": 1.7 * (built - works), "river": 4.0 * s["river"],
        "sea or lake": s["sea"] + s["lake"], "bare land": s["sand"] + s["rock"] + s["sparse"],
        "snow and ice": s["ice"] + 0.9 * snow, "wetland": 1.5 * s["wetland"],
    }  # fmt: skip
    return _class(SCENES.index(max(scores, key=lambda k: scores[k])))


def tags(view: View) -> Label:
    s = _shares(view)
    kind: dict[str, float] = {}
    for c in COVERS:
        name = LAND_COVER[c.worldcover]
        kind[name] = kind.get(name, 0.0) + s[c.name]
    zone = view.cut(view.ground.lcz)
    kind |= {"river": 4 * s["river"], "lake": s["lake"], "sea": s["sea"], "road": 2 * s["road"],
             "orchard": s["orchard"],
             "residential": float(((zone > 0) & (zone != 8)).mean()), "industrial": float((zone == 8).mean()),
             "paddy": s["rice"], "burned": float((view.cut(view.last.severity) > 0.2).mean()),
             "flooded": float((flood(view).value == 1).float().mean())}  # fmt: skip
    kind["snow and ice"] = max(kind["snow and ice"], float((view.cut(view.last.snow) > 0.6).mean()))
    value = torch.tensor([[float(kind.get(t, 0.0) > 0.02) for t in TAGS]])
    return Label("tags", value, torch.ones_like(value, dtype=torch.bool))


def harvest(view: View) -> Label:
    """Yield in t/ha of the main crop: its potential times the green cover gathered over the season."""
    main, share = _main_crop(view)
    name = CROPS[main]
    if share < 0.02 or name not in YIELD:
        return _scalar(0.0, False)
    here = view.cut((view.last.cover == ID[name]) & view.ground.farm)
    top = 0.0
    gathered, days = 0.0, range(view.days[-1] - 182, view.days[-1] + 183, 15)
    for day in days:
        m = look(view.ground, day)
        same = here & view.cut(m.cover == ID[name])
        green = float(view.cut(m.green)[same].mean()) if same.any() else 0.0
        gathered, top = gathered + green * 15, max(top, green)
    return _scalar(YIELD[name] * (0.35 * top + 0.65 * gathered / 140), top > 0)


_DRAW: dict[str, tuple[LabelSpec, Callable[[View], Label]]] = {}


def _declare(spec: LabelSpec, draw: Callable[[View], Label]) -> None:
    _DRAW[spec.name] = (spec, draw)


for _spec, _draw in (
    (LabelSpec("land_cover", "mask", tuple(LAND_COVER.values()), _COLOURS), land_cover),
    (LabelSpec("crop_type", "mask", ("no crop", *CROPS), _CROP_COLOURS), crop_type),
    (LabelSpec("crop", "class", CROPS, _CROP_COLOURS[1:]), crop),
    (LabelSpec("field_boundary", "mask", ("background", "field", "boundary"), ("#404040", "#9acd6b", "#ffffff")),
     field_boundary),
    (LabelSpec("fields", "boxes", ("field",)), fields),
    (LabelSpec("burn_scar", "mask", ("unburned", "burned"), ("#dddddd", "#b3391f")), burn_scar),
    (LabelSpec("burn_severity", "map", unit="fraction", low=0, high=1), burn_severity),
    (LabelSpec("flood", "mask", ("dry", "flood", "permanent water"), ("#d8d3c4", "#e3342f", "#2b6cb0")), flood),
    (LabelSpec("cloud", "mask", ("clear", "cloud", "thin cloud", "shadow"),
               ("#3b7a57", "#ffffff", "#b8c9d9", "#222222")),
     cloud),
    (LabelSpec("local_climate_zone", "mask", ZONES), local_climate_zone),
    (LabelSpec("canopy_height", "map", unit="m", low=0, high=60), canopy_height),
    (LabelSpec("biomass", "map", unit="t/ha", low=0, high=700), biomass),
    (LabelSpec("buildings", "boxes", ("building",)), buildings),
    (LabelSpec("objects", "boxes", things.KINDS), objects),
    (LabelSpec("change", "mask", ("none", "clear-cut", "construction", "burn", "flood"),
               ("#d9d9d9", "#8d6e3f", "#6a3fa0", "#b3391f", "#2b6cb0")), change),
    (LabelSpec("scene_class", "class", SCENES), scene_class),
    (LabelSpec("tags", "tags", TAGS), tags),
    (LabelSpec("yield", "scalar", unit="t/ha", low=0, high=100), harvest),
):  # fmt: skip
    _declare(_spec, _draw)

HIRES = LabelSpec("hires", "image", ("red", "green", "blue"), unit="reflectance", low=0, high=1)
LABELS: Mapping[str, LabelSpec] = {**{k: v[0] for k, v in _DRAW.items()}, "hires": HIRES}


def draw(name: str, view: View) -> Label:
    """The label of this name over the view's window."""
    return _DRAW[name][1](view)


__all__: list[Any] = ["LABELS", "View", "draw"]
