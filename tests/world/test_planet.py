"""Labels, events, shifts, scenes, and what is refused."""

import numpy as np
import pytest
import torch

from swath.core import UnknownName, UserError, Window
from swath.world import AXES, LABELS, Site, World, day_of

DAY = day_of(2022, 7, 1)


def test_every_label_has_its_declared_kind():
    world = World(7)
    batch = world.batch(world.sites(1, seed=2, near="cropland"), 48, [], [DAY - 60, DAY], list(LABELS))
    assert set(batch.labels) == set(LABELS)
    for name, label in batch.labels.items():
        spec = LABELS[name]
        assert label.kind == spec.kind, name
        if label.kind == "mask":
            assert int(label.value.min()) >= 0 and int(label.value.max()) < len(spec.classes), name
        if label.kind == "map":
            assert float(label.value.min()) >= spec.low and float(label.value.max()) <= spec.high, name
        if label.kind == "boxes":
            assert all(int(o.classes.max()) < len(spec.classes) for o in label.objects if len(o.classes))
    crops, parts = batch.labels["crop_type"].value[0], batch.labels["fields"].objects[0]
    assert parts.masks.any(0).sum() <= (crops > 0).sum() + crops.numel() * 0.02
    for mask in parts.masks:
        assert len(torch.unique(crops[mask])) == 1, "a parcel bears one crop"
    field = crops > 0
    assert float(batch.labels["canopy_height"].value[0, 0][field].max()) < 8


def test_crops_are_told_apart_by_their_season():
    """Wheat is green in May and ripe in August, maize the other way round."""
    world = World(7, clouds=0)
    green = {}
    for site in world.sites(6, seed=4, near="cropland", region="europe"):
        m = world.state(world.frame(site, 64), [day_of(2022, 5, 12), day_of(2022, 8, 10)])
        for name in ("winter wheat", "maize"):
            from swath.world.catalog import ID

            here = (m[0].cover == ID[name]) & (m[1].cover == ID[name])
            if here.any():
                green.setdefault(name, []).append([float(s.green[here].mean()) for s in m])
    wheat, maize = (np.mean(green[k], axis=0) for k in ("winter wheat", "maize"))
    assert wheat[0] > wheat[1] + 0.2 and maize[1] > maize[0] + 0.4


@pytest.mark.parametrize(("near", "label"), [("fire", "burn_scar"), ("flood", "flood")])
def test_events_leave_their_marks(near, label):
    world = World(7, clouds=0)
    site = world.sites(1, seed=1, near=near)[0]
    batch = world.batch(
        [site], 96, ["sentinel2-l2a", "sentinel1-rtc"], [site.day - 20, site.day + 3], [label, "change"]
    )
    hit = batch.labels[label].value[0] == 1
    assert 0.02 < hit.float().mean() < 0.98
    s2, s1 = batch.layers["sentinel2-l2a"], batch.layers["sentinel1-rtc"]
    nir = s2.x[0, :, s2.sensor.index("nir")]
    assert (nir[1][hit].mean() - nir[0][hit].mean()) < (nir[1][~hit].mean() - nir[0][~hit].mean()) - 0.01
    if near == "flood":
        assert s1.x[0, 1, 0][hit].mean() < s1.x[0, 0, 0][hit].mean() - 2
    changed = batch.labels["change"].value[0] == {"fire": 3, "flood": 4}[near]
    assert (changed & hit).sum() > 0.8 * hit.sum()


@pytest.mark.parametrize("axis", [a for a in AXES if a != "none"])
def test_a_dose_moves_the_world_and_none_does_not(axis):
    home = World(7)
    same, away = home.shifted(axis, 0.0), home.shifted(axis, 1.0)
    site = home.sites(1, seed=3, near="cropland", region="europe")
    want = home.batch(site, 24, ["sentinel2-l2a"], [DAY], ["land_cover"])
    none = same.batch(site, 24, ["sentinel2-l2a"], [DAY], ["land_cover"])
    assert torch.equal(want.layers["sentinel2-l2a"].x, none.layers["sentinel2-l2a"].x)
    assert torch.equal(want.labels["land_cover"].value, none.labels["land_cover"].value)
    if axis == "geography":
        from swath.world.globe import continent_of

        assert all(continent_of(s.lon, s.lat) == "europe" for s in same.sites(2, seed=5))
        assert all(continent_of(s.lon, s.lat) != "europe" for s in away.sites(2, seed=5))
        return
    got = away.batch(site, 24, ["sentinel2-l2a"], [DAY], ["land_cover"])
    if axis == "source":
        assert not torch.equal(want.labels["land_cover"].value, got.labels["land_cover"].value)
    elif axis == "scale":
        assert got.where.grids[0].gsd[0] == 30.0
    else:
        assert not torch.equal(want.layers["sentinel2-l2a"].x, got.layers["sentinel2-l2a"].x)


def test_a_scene_is_read_by_windows():
    scene = World(7).scene(Site(10.0, 52.0), 120, ["sentinel2-l2a", "copdem"], [DAY])
    inside = scene.read(Window(30, 60, 30, 30), {"sentinel2-l2a": ["red"]})
    assert list(inside.layers) == ["sentinel2-l2a"]
    whole = scene.read(scene.grid.window)
    red = whole.layers["sentinel2-l2a"].select(["red"]).x
    assert torch.equal(inside.layers["sentinel2-l2a"].x, red[..., 30:60, 60:90])
    beyond = scene.read(Window(90, 90, 60, 60)).layers
    assert not beyond["sentinel2-l2a"].valid[..., 30:, :].any()
    assert beyond["copdem"].valid[..., :10, :10].all() and not beyond["copdem"].valid[..., 10:, 10:].any()
    assert scene.fingerprint == World(7).scene(Site(10.0, 52.0), 120, ["sentinel2-l2a", "copdem"], [DAY]).fingerprint
    assert scene.fingerprint != World(8).scene(Site(10.0, 52.0), 120, ["sentinel2-l2a", "copdem"], [DAY]).fingerprint


def test_mistakes_are_named():
    world = World(1)
    with pytest.raises(UnknownName, match="crop_type"):
        world.batch([(10.0, 52.0)], 12, [], [DAY], ["crop_typ"])
    with pytest.raises(UserError, match="looks at mars"):
        world.batch([(10.0, 52.0)], 12, ["mars-ctx"], [DAY])
    with pytest.raises(UserError, match="no day"):
        world.batch([(10.0, 52.0)], 12, ["copdem"], [])
    with pytest.raises(UnknownName, match="cropland"):
        world.sites(1, near="croplands")
    with pytest.raises(UserError, match="dose"):
        world.shifted("time", 2.0)
    with pytest.raises(UserError, match="smaller size"):
        world.batch([(10.0, 52.0)], 128, ["rgb-aerial"], [DAY])


def test_geography_agrees_with_a_projection_library():
    from pyproj import Transformer

    from swath.world.globe import lonlat_of, xy_of

    there = Transformer.from_crs(4326, 6933, always_xy=True)
    for place in ((10.0, 50.0), (-120.0, -33.0), (170.0, 77.0), (0.0, 0.0)):
        assert xy_of(*place) == pytest.approx(there.transform(*place), abs=1e-4)
        lon, lat = lonlat_of(*(np.array(v) for v in xy_of(*place)))
        assert (float(lon), float(lat)) == pytest.approx(place, abs=1e-7)
