"""Joined features: a map from tiles that equals the network on the whole scene, whatever tiles, cells and blocks."""

import json
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from deploy_fakes import BANDS, NoiseScene, label
from torch import nn
from torch.nn import functional

from swath.adapt.build import Recipe, assemble
from swath.adapt.bundle import BandCard, Bundle, Card, InputCard, Tiling
from swath.core import Features, Input, LabelSpec, SwathError, UserError, Window
from swath.core.config import parse
from swath.deploy import mosaic
from swath.deploy.bundles import BundlePredictor, stride_of
from swath.deploy.edges import going_on
from swath.deploy.map import MapRun, estimate, map_scene
from swath.deploy.plan import MapSettings, Plan
from swath.deploy.predictor import PredictorSpec
from swath.models import build_encoder
from swath.models.decoders import DECODERS

CELL = 8


@dataclass(eq=False)
class Patches:
    """Features see their own patch alone; a decoder pools pairs of them, and sees pixels, as those of bundles do."""

    tile: int = 64
    kind: str = "mask"
    lean: float = 0.0
    spec: PredictorSpec = field(init=False)

    def __post_init__(self):
        torch.manual_seed(5)
        self.patch = nn.Conv2d(4, 12, CELL, CELL)
        self.deep, self.mix = nn.Conv2d(12, 12, 1), nn.Conv2d(24, 8, 1)
        self.near, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        for m in (self.patch, self.deep, self.mix, self.near, self.last):
            nn.init.kaiming_normal_(m.requires_grad_(False).weight, nonlinearity="linear")
        self.asked = []
        self.spec = PredictorSpec(
            "patches",
            (Input("sentinel2-l2a", BANDS, "reflectance", required=True),),
            label(3) if self.kind == "mask" else LabelSpec("height", "map", unit="m"),
            digest=f"patches-{self.lean}", tile=self.tile, multiple=CELL, stride=CELL, width=12,
        )  # fmt: skip

    def going_on(self, sides):
        return going_on([self.deep, self.mix, self.near, self.last], sides)

    def pixels(self, batch):
        return (batch.layers["sentinel2-l2a"].x.mean(1) - 0.3) * 8

    def features(self, batch):
        self.asked.append(len(batch))
        maps = self.patch(self.pixels(batch))
        rows, cols = (torch.linspace(-1, 1, n) ** 2 for n in maps.shape[-2:])
        maps = maps + self.lean * (rows[:, None] + cols)
        return Features((maps,), maps.mean((2, 3)), (float(CELL),))

    def answer(self, features, batch):
        fine, x = features.maps[0], self.pixels(batch)
        coarse = functional.interpolate(
            self.deep(functional.max_pool2d(fine, 2)).tanh(), fine.shape[-2:], mode="bilinear"
        )
        deep = functional.interpolate(self.mix(torch.cat([fine.tanh(), coarse], 1)), x.shape[-2:], mode="bilinear")
        out = self.last(torch.cat([deep.tanh(), self.near(x).tanh()], 1))
        return {"probabilities": out.softmax(1)} if self.kind == "mask" else {"values": out[:, :1]}

    def predict(self, batch):
        return self.answer(self.features(batch), batch)


def same(value):
    return value


def mapped(tmp_path, scene, model, run=None, name="map", **settings):
    out = tmp_path / f"{name}.tif"
    given = MapSettings(**{"proba": model.kind == "mask", "cell": 200, "batch": 3} | settings)
    done = map_scene(partial(same, scene), partial(same, model), out, settings=given, run=run or MapRun())
    with rasterio.open(done.files["proba" if model.kind == "mask" else "value"]) as file:
        return file.read().astype(float) / (1e4 if model.kind == "mask" else 1), done


def whole(scene, model):
    with torch.inference_mode():
        return next(iter(model.predict(scene.read(scene.grid.window)).values()))[0].numpy()


@pytest.mark.parametrize("tile,overlap,cell,batch", [
    (64, None, 200, 3), (48, 8, 1024, 1), (96, 16, 150, 5), (32, 0, 1024, 64), (64, 24, 64, 2)
])  # fmt: skip
@pytest.mark.parametrize("shape", [(400, 352), (96, 480)])
def test_the_map_is_the_network_on_the_whole_scene(tmp_path, monkeypatch, shape, tile, overlap, cell, batch):
    """Inside, where tiles, blocks and cells meet, and at the scene's own edge, where the network meets its zeros."""
    monkeypatch.setattr(mosaic, "BLOCK", 120)
    scene, model = NoiseScene(*shape), Patches()
    want = whole(scene, model)
    found, _ = mapped(tmp_path, scene, model, tile=tile, overlap=overlap, cell=cell, batch=batch)
    np.testing.assert_allclose(found, want, atol=2e-4)


def test_tile_by_tile_it_is_not(tmp_path):
    """What the joining is for: the same tiles answered one by one err near their edges."""
    scene, model = NoiseScene(400, 352), Patches()
    want = whole(scene, model)
    joined, one = (mapped(tmp_path, scene, model, name=str(m), mosaic=m)[0] for m in (True, False))
    assert np.abs(one - want).max() > 100 * np.abs(joined - want).max()


def test_workers_shards_and_blocks_of_cells_change_no_bit(tmp_path):
    scene = NoiseScene(400, 352, gaps=(Window(100, 90, 130, 150),))
    want, done = mapped(tmp_path, scene, Patches(lean=1.0))
    assert done.cells == 6
    for n, shards in enumerate((("2/2", "1/2"), ("3/4", "1/4", "4/4", "2/4"))):
        for shard in shards:
            args = tmp_path / f"s{n}.tif", MapSettings(proba=True, cell=200, batch=3), MapRun(shard=shard)
            done = map_scene(
                partial(same, scene), partial(same, Patches(lean=1.0)), args[0], settings=args[1], run=args[2]
            )
        with rasterio.open(done.files["proba"]) as file:
            assert np.array_equal(file.read(), np.round(want * 1e4))
    again, _ = mapped(tmp_path, scene, Patches(lean=1.0), name="workers", run=MapRun(workers=2))
    assert np.array_equal(again, want)


def test_batches_agree_and_so_do_values(tmp_path):
    scene = NoiseScene(300, 260, steps=3)
    for kind in ("mask", "map"):
        maps = [mapped(tmp_path, scene, Patches(kind=kind, lean=1.0), name=f"{kind}{b}", batch=b)[0] for b in (1, 7)]
        np.testing.assert_allclose(*maps, atol=1.01e-4)


def test_what_tiles_say_of_shared_ground_is_blended_before_the_answer(tmp_path):
    """Features that depend on their place in the tile: no line of the map jumps more where tiles meet."""
    scene, model = NoiseScene(400, 352), Patches(lean=2.0)
    found, _ = mapped(tmp_path, scene, model, cell=1024, overlap=16)
    jump = np.abs(np.diff(found, axis=2)).sum(0).mean(0)
    places = Plan.of(scene, model.spec, MapSettings(cell=1024, overlap=16)).cols.places
    ends = np.array(sorted({q for p in places for q in (p, p + 64) if 0 < q < 352})) - 1
    assert jump[ends].mean() < 1.3 * np.delete(jump, ends).mean()


def test_ground_that_nobody_saw(tmp_path):
    """Whole tiles are missing: nodata there, beside it what features about it say; far from it nothing moves."""
    gap = Window(96, 80, 160, 176)
    scene, model = NoiseScene(400, 352), Patches()
    want, _ = mapped(tmp_path, scene, model)
    found, _ = mapped(tmp_path, replace(scene, gaps=(gap,)), model, name="gap")
    hidden = np.zeros(scene.grid.shape, bool)
    hidden[gap.slices] = True
    assert (np.isclose(found, 6.5535).all(0) == hidden).all()
    assert np.abs(found[:, ~hidden].sum(0) - 1).max() < 1e-3
    near = np.zeros_like(hidden)
    near[gap.halo(64).slices] = True
    np.testing.assert_allclose(found[:, ~near], want[:, ~near], atol=1e-4)
    assert np.abs(found - want)[:, ~hidden].mean() < 0.01
    empty, _ = mapped(tmp_path, replace(scene, gaps=(scene.grid.window,)), model, name="empty")
    assert np.isclose(empty, 6.5535).all()


def test_ground_that_cannot_be_read(tmp_path):
    """Read tile by tile the map is that of the same hole seen as nodata, where the hole's tiles have no say."""
    broken = Window(130, 130, 4, 4)
    scene, model = NoiseScene(400, 352), Patches()
    want, _ = mapped(tmp_path, scene, model)
    with pytest.raises(SwathError, match="cannot be read"):
        mapped(tmp_path, replace(scene, broken=(broken,)), model, name="broken")
    found, done = mapped(tmp_path, replace(scene, broken=(broken,)), model, name="holes", run=MapRun(allow_holes=True))
    lost = np.isclose(found, 6.5535).all(0)
    assert done.holes and lost[132, 132] and 0 < lost.mean() < 0.2
    near = np.zeros_like(lost)
    for r, c, h, w, *_ in done.holes:
        near[max(0, r - 48) : r + h + 48, max(0, c - 48) : c + w + 48] = True
    assert not near.all() and not lost[~near].any()
    np.testing.assert_allclose(found[:, ~near], want[:, ~near], atol=1e-4)


def test_where_features_are_not_joined():
    scene, spec = NoiseScene(400, 352), Patches().spec
    assert Plan.of(scene, spec, MapSettings()).phase == 16
    for other, settings in (
        (spec, MapSettings(mosaic=False)),
        (spec, MapSettings(overlap=12)),  # out of phase
        (spec, MapSettings(tile=72)),  # half a pair of cells
        (spec, MapSettings(overlap=56)),
        (replace(spec, stride=0), MapSettings()),
        (replace(spec, label=LabelSpec("cars", "boxes", ("car",))), MapSettings()),
    ):
        plan = Plan.of(scene, other, settings)
        assert plan.phase == 0 and not plan.settings.mosaic
        if settings.overlap is None and other.label.kind == "mask":
            assert plan.settings.overlap == MapSettings(tile=settings.tile, mosaic=False).resolved(other).overlap


def test_margins_are_what_an_answer_looks_at():
    """Four cells of features, or what the model says, in whole pairs of cells."""
    scene, spec = NoiseScene(400, 352), Patches().spec
    found = [
        Plan.of(scene, replace(spec, reach=r), MapSettings(mosaic=m)) for r, m in ((0, True), (17, True), (17, False))
    ]
    assert [p.margin for p in found] == [32, 32, 0]
    assert Plan.of(scene, replace(spec, reach=3), MapSettings()).margin == 16
    wide = Plan.of(scene, replace(spec, multiple=16, stride=16), MapSettings())
    assert wide.margin == 64 and len({p.digest for p in (*found, wide)}) == 3
    spans = mosaic.blocks(wide.rows, 0, wide.phase, wide.margin)
    assert spans[0].start == 0 and not spans[0].beyond[0] and spans[-1].stop >= 400


def test_each_tile_is_computed_once_and_the_dry_run_says_as_much(tmp_path):
    scene, model = NoiseScene(400, 352), Patches()
    mapped(tmp_path, scene, model)
    plan = Plan.of(scene, model.spec, MapSettings(cell=200, batch=3))
    assert sum(model.asked) == len(plan.rows.places) * len(plan.cols.places)
    told = estimate(plan, scene, model)
    assert told["joined"] and json.loads((tmp_path / "map.json").read_text())["properties"]["swath:joined"]
    assert told["tiles"] == sum(model.asked[:-2]) and told["seconds"] > 0
    bare = Plan.of(scene, replace(model.spec, width=0), MapSettings(cell=200, batch=3))
    assert plan.memory() > bare.memory()


def test_a_declaration_that_is_not_kept_is_an_error(tmp_path):
    @dataclass(eq=False)
    class Coarser(Patches):
        def features(self, batch):
            found = super().features(batch)
            return Features((functional.avg_pool2d(found.maps[0], 2),), found.pooled, (16.0,))

    with pytest.raises(SwathError, match=r"features of a tile are \(4, 4\), not \(8, 8\)"):
        mapped(tmp_path, NoiseScene(400, 352), Coarser())

    @dataclass(eq=False)
    class Pools(Patches):
        def answer(self, features, batch):
            return {k: v * features.pooled.mean() for k, v in super().answer(features, batch).items()}

    with pytest.raises(SwathError, match="not finite"):
        mapped(tmp_path, NoiseScene(400, 352), Pools(), name="pools")

    class Whole:
        spec, kind = Patches().spec, "mask"

        def predict(self, batch):
            raise AssertionError

    with pytest.raises(UserError, match="two steps"):
        mapped(tmp_path, NoiseScene(400, 352), Whole(), name="whole")


@pytest.mark.parametrize("name", sorted(DECODERS.names()))
def test_decoders_that_say_so_look_near_by_only(name):
    """A change at one end of the maps reaches the other end, or it does not: to the bit."""
    torch.manual_seed(0)
    decoder = DECODERS.get(name)().build([16] * 4, [8.0] * 4).eval()
    maps = [torch.randn(1, 16, 8, 64) for _ in range(4)]
    other = [m.clone() for m in maps]
    for m in other:
        m[..., 0] += 100.0
    with torch.inference_mode():
        a, b = decoder(maps), decoder(other)
    quarter = a.shape[-1] // 4
    assert decoder.local == torch.equal(a[..., -quarter:], b[..., -quarter:])
    assert not torch.equal(a[..., :quarter], b[..., :quarter])


SPECTRA = dict.fromkeys(BANDS, (0.3, 0.1))


def task(encoder, decoder="unet", kind="segment", dates=1, **more):
    recipe = parse(
        {
            "encoder": encoder, "task": {"kind": kind, "detail": 8} if kind == "segment" else kind,
            "tuning": "frozen", "label": label(3), "decoder": decoder, "dates": dates,
            "statistics": {"sentinel2-l2a": SPECTRA}, **more,
        },
        Recipe,
    )  # fmt: skip
    torch.manual_seed(0)
    made = assemble(recipe, build_encoder(recipe.encoder)).eval().requires_grad_(False)
    for m in made.modules():
        if isinstance(m, nn.Conv2d) and m.bias is not None:
            nn.init.normal_(m.bias, std=0.3)
    return recipe, made


VIT = {"kind": "swath-vit", "size": "nano", "patch": 8}


@pytest.mark.parametrize(
    "encoder,decoder,more,stride",
    [
        (VIT, "unet", {}, 8),
        (VIT, "dpt", {}, 8),
        (VIT, "upernet", {}, 0),  # pools the whole tile
        (VIT, "fcn", {"ratio": 2.0}, 0),  # labels finer than the scene
        (VIT | {"patch": 16}, "fcn", {}, 16),
        ({"kind": "ssl4eo-resnet", "size": "tiny"}, "fcn", {}, 0),  # has edges of its own, and several strides
        (VIT, "unet", {"dates": 3, "fusion": "ltae"}, 8),
    ],
)
def test_what_a_bundle_declares(encoder, decoder, more, stride):
    assert stride_of(task(encoder, decoder, **more)[1]) == stride


class Tuned:
    """As much of a bundle as a predictor asks for."""

    def __init__(self, steps, **more):
        self.recipe, self.task = task(VIT, dates=steps, **more)
        card = InputCard("sentinel2-l2a", "optical", tuple(BandCard(b, "reflectance") for b in BANDS), (1, steps))
        tiling = Tiling(64, 8, 8)
        self.bundle = Bundle(
            Card("b", "segment", label(3), (card,), "frozen", "vit", tiling=tiling), self.recipe, self.task
        )

    def __call__(self):
        return BundlePredictor(self.bundle)


@pytest.mark.parametrize("steps,more", [(1, {}), (3, {}), (3, {"fusion": "ltae"})])
def test_a_bundle_answers_in_two_steps_what_it_answers_in_one(tmp_path, steps, more):
    opened, scene = Tuned(steps, **more), NoiseScene(208, 176, steps=steps)
    model, batch = opened(), scene.read(Window(0, 0, 64, 64))
    with torch.inference_mode():
        one, found = model.predict(batch), model.features(batch)
        two = model.answer(found, batch)
        assert all(torch.equal(one[k], two[k]) for k in one) and opened.task.store is None
        other = model.answer(Features(tuple(m * 0 for m in found.maps), found.pooled, found.strides), batch)
    assert not torch.allclose(one["probabilities"], other["probabilities"], atol=1e-2)
    want = {}
    for mosaic_too in (True, False):
        done = map_scene(
            partial(same, scene), opened, tmp_path / f"{mosaic_too}.tif",
            settings=MapSettings(proba=True, mosaic=mosaic_too, overlap=32),
        )  # fmt: skip
        with rasterio.open(done.files["proba"]) as file:
            want[mosaic_too] = file.read() / 1e4
    far = np.abs(want[True] - want[False]).mean()
    assert 0 < far < 0.02, far


def test_maps_of_single_objects_do_not_go_on_as_tiles_do():
    """Two objects of two tiles: as many maps, and none of them a tile's."""
    opened = Tuned(1)
    made = opened.bundle.task
    made.roi = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    with opened().going_on(torch.ones(2, 4, dtype=torch.bool)):
        watched = [m for m in made.modules() if m._forward_hooks]
        assert watched and not {*watched} & {*made.roi.modules(), *made.encoder.modules()}
