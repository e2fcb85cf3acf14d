"""Edges of a tile inside a scene: maps go on there, zeros at the scene's own edge, nothing left behind."""

import copy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from deploy_fakes import Conv, NoiseScene
from torch import nn
from torch.nn import functional

from swath.core import Batch
from swath.deploy.edges import continued, going_on
from swath.deploy.map import map_scene
from swath.deploy.packed import PackedConv, pack, supported
from swath.deploy.plan import MapSettings

ALL, NONE = torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)


def decoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, (5, 3), padding=(2, 1)), nn.GELU(),
        nn.Conv2d(24, 16, 3, padding=2, dilation=2, groups=2), nn.Conv2d(16, 3, 1),
    ).eval()  # fmt: skip


def beyond(line, along):
    """The reference: half a value, half the mean of the nine about it, of a line whose ends are repeated."""
    line = line.movedim(along, -1)
    wide = torch.cat([line[..., :1]] * 4 + [line] + [line[..., -1:]] * 4, -1)
    about = torch.stack([wide[..., i : i + 9].mean(-1) for i in range(line.shape[-1])], -1)
    return ((line + about) / 2).movedim(-1, along)


def going(net, x):
    """The reference: on each side in turn, a whole map with its edge continued, convolved as a whole."""
    for m in net:
        if not (isinstance(m, nn.Conv2d) and any(m.padding)):
            x = m(x)
            continue
        y, (a, b) = m(x), m.padding
        how = {"bias": m.bias, "dilation": m.dilation, "groups": m.groups}
        up, down = (beyond(x[..., r, :], 3).expand(-1, -1, a, -1) for r in (slice(0, 1), slice(-1, None)))
        tall = functional.pad(torch.cat([up, x, down], 2), (b, b, 0, 0), mode="replicate")
        left, right = (beyond(x[..., c], 2).expand(-1, -1, -1, b) for c in (slice(0, 1), slice(-1, None)))
        wide = functional.pad(torch.cat([left, x, right], 3), (0, 0, a, a), mode="replicate")
        rows, cols = (functional.conv2d(v, m.weight, **how) for v in (tall, wide))
        if a:
            y[..., :a, :], y[..., -a:, :] = rows[..., :a, :], rows[..., -a:, :]
        if b:
            y[..., :b], y[..., -b:] = cols[..., :b], cols[..., -b:]
        x = y
    return x


def test_a_map_goes_on_by_half_its_edge_and_half_the_mean_about_it():
    line = torch.arange(12.0).view(1, 1, 1, 12) ** 2
    assert torch.allclose(continued(line), beyond(line, 3)) and continued(line)[..., 0] == (0 + 30 / 9) / 2
    flat = torch.full((1, 2, 1, 4), 3.5)
    assert torch.equal(continued(flat), flat)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("shape", [(20, 24), (9, 8), (4, 31)])
def test_all_sides_none_and_afterwards(packs, shape):
    if packs and not supported("fp32"):
        pytest.skip("this build of torch has no oneDNN")
    net, x = decoder(), torch.randn(2, 8, *shape)
    other = copy.deepcopy(net)
    if packs:
        pack(other, "fp32")
        assert any(isinstance(m, PackedConv) for m in other)
    with torch.inference_mode():
        plain, want = net(x), going(net, x)
        with going_on([other], ALL):
            assert torch.allclose(other(x), want, atol=1e-5)
        with going_on([other], NONE):
            assert torch.allclose(other(x), plain, atol=1e-5)
        assert torch.allclose(other(x), plain, atol=1e-5) and not torch.allclose(want, plain, atol=1e-3)
    assert not any(m._forward_hooks for m in other.modules())


def test_each_tile_and_each_side_by_itself():
    net, x = decoder(), torch.randn(2, 8, 60, 60)
    sides = torch.tensor([[True, False, False, False], [False, False, False, True]])
    with torch.inference_mode():
        plain, want = net(x), going(net, x)
        with going_on([net], sides):
            found = net(x)
        for i in range(2):
            with going_on([net], sides[i : i + 1]):
                assert torch.allclose(net(x[i : i + 1]), found[i : i + 1], atol=1e-5)
    reach, far = 5, 20  # of the convolutions; and along an edge, whose means look farther
    assert torch.allclose(found[0, :, :-reach, far:-far], want[0, :, :-reach, far:-far], atol=1e-5)
    assert torch.allclose(found[0, :, reach:], plain[0, :, reach:], atol=1e-5)
    assert torch.allclose(found[1, :, far:-far, reach:], want[1, :, far:-far, reach:], atol=1e-5)
    assert torch.allclose(found[1, :, :, :-reach], plain[1, :, :, :-reach], atol=1e-5)


@pytest.mark.skipif(not supported("bf16"), reason="no bf16 here")
def test_in_bf16():
    net, x = decoder(), torch.randn(2, 8, 16, 16)
    with torch.inference_mode():
        want = going(net, x)
    pack(net, "bf16")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), going_on([net], ALL):
        assert (net(x).float() - want).abs().max() < 0.03 * want.abs().max()


def test_what_changes_its_maps_size_or_pads_otherwise_is_left_and_so_are_several_dates():
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
    )  # fmt: skip
    x = torch.randn(2, 8, 21, 21)
    with torch.inference_mode():
        want = net(x)
        with going_on([net], ALL):
            assert torch.equal(net(x), want)
        one, six = decoder(), torch.randn(6, 8, 12, 12)
        want = one(six)
        with going_on([one], ALL):
            assert torch.equal(one(six), want)


def test_dates_that_are_answered_one_by_one_are_those_of_their_tiles():
    """Three dates of two tiles, each with sides of its own, and after them one map a tile."""
    one, six = decoder(), torch.randn(6, 8, 24, 24)
    sides = torch.tensor([[True, False, False, True], [False, True, False, False]])
    with torch.inference_mode():
        for sample in range(2):
            with going_on([one], sides[sample : sample + 1].expand(3, 4)):
                want = one(six[3 * sample : 3 * sample + 3])
            with going_on([one], sides, dates=3):
                assert torch.allclose(one(six)[3 * sample : 3 * sample + 3], want, atol=1e-5)
        with going_on([one], sides):
            want = one(six[:2])
        with going_on([one], sides, dates=3):
            assert torch.allclose(one(six[:2]), want, atol=1e-5)


class Deep(Conv):
    """Convolutions that reach much farther than the overlap of its tiles."""

    def __init__(self, told=True):
        super().__init__(tile=64, halo=0)
        torch.manual_seed(3)
        layers = [nn.Conv2d(4, 16, 3, padding=1), nn.ReLU()]
        for _ in range(4):
            layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(16, 3, 1)).eval().requires_grad_(False)
        for m in self.net.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        self.told, self.sides = told, []

    def going_on(self, sides):
        self.sides += sides.tolist()
        return going_on([self.net] if self.told else [], sides)

    def predict(self, batch):
        return {"probabilities": self.net(20 * (batch.layers["sentinel2-l2a"].x.mean(1) - 0.2)).softmax(1)}


def same(value):
    return value


def test_a_map_tells_where_the_scene_goes_on(tmp_path):
    """Smooth ground: a map whose inner edges go on is nearer to the model on the whole scene; its outer edge stays."""
    scene, maps = Smooth(150, 120), {}
    whole = Deep().predict(scene.read(scene.grid.window))["probabilities"][0].numpy()
    for told in (True, False):
        model, out = Deep(told), tmp_path / f"{told}.tif"
        done = map_scene(partial(same, scene), partial(same, model), out, settings=MapSettings(proba=True, batch=3))
        with rasterio.open(done.files["proba"]) as file:
            maps[told] = file.read() / 1e4
    assert len(model.sides) == 3 * 2
    assert np.array(model.sides).sum(0).tolist() == [4, 4, 3, 3]
    wrong = {t: np.abs(m - whole)[:, 12:-12, 12:-12].mean() for t, m in maps.items()}
    assert wrong[True] < 0.7 * wrong[False]
    for m in maps.values():
        np.testing.assert_allclose(m[:, :10, :30], whole[:, :10, :30], atol=2e-4)


@dataclass(frozen=True)
class Smooth(NoiseScene):
    def read(self, window, bands=None):
        batch = super().read(window, bands)
        layer = batch.layers["sentinel2-l2a"]
        rows, cols = torch.arange(window.row, window.stop[0]), torch.arange(window.col, window.stop[1])
        wave = 0.3 + 0.1 * torch.sin(rows[:, None] * 0.06) * torch.cos(cols[None] * 0.05)
        return Batch({"sentinel2-l2a": replace(layer, x=wave.expand_as(layer.x).clone())}, batch.where)
