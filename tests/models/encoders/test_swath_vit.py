"""Swath's own ViT: bands add up, missing parts change nothing, extent and dates matter, tokens can be dropped."""

from dataclasses import replace

import pytest
import torch

from swath.core import SENSORS, Batch, Grid, Layer, Sensor, UserError, Where, collate
from swath.core.sensor import Band
from swath.models.encoders.swath_vit import SIZES, SwathViT, _kernel_resize, band_codes, own_view

S2, S1 = SENSORS.get("sentinel2-l2a"), SENSORS.get("sentinel1-grd")
RGB = S2.select(["red", "green", "blue"])
DEM = Sensor("copdem", "elevation", (Band("elevation", unit="m", gsd=30),))
COVER = Sensor("worldcover", "classes", (Band("cover", unit="class"),), classes=((10, "tree"), (80, "water")))


def layer(sensor, b=2, t=1, size=32, seed=0, dated=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(b, t, len(sensor.bands), size, size, generator=g) * (0.5 if sensor.kind == "optical" else -20.0)
    if sensor.kind == "classes":
        x = torch.where(x < -10, 10.0, 80.0)
    times = torch.arange(t).expand(b, t) * 30 + 19_000 if dated else None
    return Layer.of(sensor, x, times=times)


def batch(*layers, where=None):
    b = layers[0].x.shape[0]
    known = Where(torch.arange(b), torch.tensor([[11.5, 48.1]] * b, dtype=torch.float64))
    return Batch({v.sensor.id: v for v in layers}, where or known)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return SwathViT(size="nano", patch=8).build().eval()


def hide(part, t):
    valid = part.valid.clone()
    valid[:, t] = False
    return replace(part, valid=valid, x=torch.where(valid, part.x, torch.zeros(())))


@pytest.mark.parametrize("size", [24, 40])
@pytest.mark.parametrize("t", [1, 3])
def test_shapes(vit, size, t):
    out = vit(batch(layer(S2, t=t, size=size)))
    assert [tuple(m.shape) for m in out.maps] == [(2, 128, size // 8, size // 8)] * 4
    assert out.strides == (8.0,) * 4 and tuple(out.pooled.shape) == (2, 128)
    assert tuple(out.tokens.shape) == (2, t * (size // 8) ** 2, 128)
    one = vit(batch(layer(S2, t=t, size=size)), levels=[1])
    assert torch.equal(one.maps[0], out.maps[1])


def test_every_kind_together(vit):
    out = vit(batch(layer(S2, t=2), layer(S1), layer(DEM, size=11), layer(COVER)))
    assert torch.isfinite(out.pooled).all() and tuple(out.maps[-1].shape) == (2, 128, 4, 4)
    assert out.tokens.shape[1] == 2 * 16 + 16 + 4 + 16


def test_invalid_date_is_as_if_it_were_not_there(vit):
    whole = layer(S2, t=3)
    short = replace(whole, x=whole.x[:, :2], valid=whole.valid[:, :2], times=whole.times[:, :2])
    with torch.inference_mode():
        a, b = vit(batch(hide(whole, 2))), vit(batch(short))
    assert torch.allclose(a.pooled, b.pooled, atol=1e-5) and torch.allclose(a.maps[-1], b.maps[-1], atol=1e-5)
    assert not torch.allclose(vit(batch(whole)).pooled, b.pooled, atol=1e-3)


def test_missing_sensor_is_as_if_it_were_not_there(vit):
    both = batch(layer(S2), layer(S1))
    mixed = collate([both[0], batch(layer(S2))[1]])
    with torch.inference_mode():
        a, b = vit(mixed), vit(batch(layer(S2)))
    assert torch.allclose(a.pooled[1], b.pooled[1], atol=1e-5)
    assert torch.allclose(a.maps[-1][1], b.maps[-1][1], atol=1e-5)
    assert not torch.allclose(a.pooled[0], b.pooled[0], atol=1e-3)


def test_band_order_and_names_do_not_matter(vit):
    part = layer(S2)
    turned = part.select([b.name for b in reversed(S2.bands)])
    assert torch.allclose(vit(batch(part)).pooled, vit(batch(turned)).pooled, atol=1e-5)
    rgb = layer(RGB)
    other = Sensor("other", "optical", tuple(replace(b, name=f"b{i}") for i, b in enumerate(RGB.bands)))
    assert torch.allclose(vit(batch(rgb)).pooled, vit(batch(replace(rgb, sensor=other))).pooled, atol=1e-6)
    bgr = replace(rgb, sensor=S2.select(["blue", "green", "red"]))
    assert not torch.allclose(vit(batch(rgb)).pooled, vit(batch(bgr)).pooled, atol=1e-4)


def test_many_bands_are_mixed_before_the_kernels_with_the_same_result(vit):
    cube = SENSORS.get("enmap")
    part = layer(cube, b=1, size=16)
    wide = SwathViT(size="nano", patch=8, basis=len(cube.bands)).build().embed
    narrow = SwathViT(size="nano", patch=8, basis=len(cube.bands) - 1).build().embed
    mix, kernel = torch.rand(len(cube.bands), 5), torch.rand(7, 5, 8, 8)
    x = torch.rand(1, len(cube.bands), 16, 16)
    a = torch.nn.functional.conv2d(x, torch.einsum("drhw,cr->dchw", kernel, mix), stride=8)
    b = torch.nn.functional.conv2d(torch.einsum("nchw,cr->nrhw", x, mix), kernel, stride=8)
    assert torch.allclose(a, b, rtol=1e-4)
    assert len(cube.bands) > vit.embed.basis and vit(batch(part)).pooled.isfinite().all()
    assert wide(own_view(part))[0].shape == narrow(own_view(part))[0].shape == (1, 1, 2, 2, 128)


def test_codes_are_smooth_in_wavelength_and_distinct_by_name():
    sensor = Sensor("x", "optical", tuple(Band(f"b{nm}", nm=nm, fwhm=20) for nm in (660.0, 662.0, 900.0)))
    near, far = (band_codes(sensor)[0] - band_codes(sensor)[i] for i in (1, 2))
    assert near.norm() < 0.5 < far.norm()
    vv, vh = band_codes(S1)
    assert (vv - vh).norm() > 1


def test_extent_place_and_time_are_seen(vit):
    part, (a, b) = layer(RGB), ((10.0, 0.0, 0.0, 0.0, -10.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    spot = Where(torch.arange(2), torch.tensor([[11.5, 48.1]] * 2, dtype=torch.float64))
    fine, coarse = (replace(spot, grids=(Grid("EPSG:32632", g, (32, 32)),) * 2) for g in (a, b))
    base = vit(batch(part, where=fine)).pooled
    assert not torch.allclose(base, vit(batch(part, where=coarse)).pooled, atol=1e-5)
    away = replace(fine, lonlat=torch.tensor([[-60.0, -3.0]] * 2, dtype=torch.float64))
    lost = replace(fine, lonlat=torch.full((2, 2), float("nan"), dtype=torch.float64))
    later = replace(part, times=part.times + 180)
    undated = replace(part, times=None)
    for change in (vit(batch(part, where=away)), vit(batch(part, where=lost)), vit(batch(later, where=fine)),
                   vit(batch(undated, where=fine))):  # fmt: skip
        assert not torch.equal(base, change.pooled)


def test_encode_of_kept_tokens_is_what_remains(vit):
    tokens = vit.tokenize(batch(layer(S2, t=2), layer(S1)))
    whole = vit.encode(tokens)
    order = torch.arange(tokens.x.shape[1]).flip(0).expand(2, -1)
    assert torch.allclose(vit.encode(tokens, order), whole.flip(1), atol=1e-5)
    some = torch.stack([torch.arange(5), torch.arange(7, 12)])
    assert tuple(vit.encode(tokens, some).shape) == (2, 5, 128)
    assert tokens.place.shape == (tokens.x.shape[1], 5) and tokens.place[-1].tolist() == [1, 0, 0, 3, 3]


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    vit = SwathViT(size="nano", patch=8, drop_time=0.5, drop_place=0.5, drop_path=0.1).build().train()
    part = hide(layer(S2, b=8, t=2), 1)
    valid = part.valid.clone()
    valid[:, 0, :, :3, :3] = False
    out = vit(batch(replace(part, valid=valid)))
    (out.pooled.square().mean() + sum(m.square().mean() for m in out.maps)).backward()
    dead = [n for n, p in vit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_bf16_and_patch_resize(vit):
    half = SwathViT(size="nano", patch=8).build().eval()
    half.load_state_dict(vit.state_dict())
    half.to(torch.bfloat16)
    a, b = vit(batch(layer(S2))).pooled, half(batch(layer(S2))).pooled
    assert b.dtype == torch.bfloat16 and torch.allclose(a, b.float(), atol=0.1)
    # FlexiViT's rule: a kernel resized to a larger patch answers the enlarged image as the old one the image
    small = torch.rand(1, 1, 8, 8)
    large = torch.nn.functional.interpolate(small, (16, 16), mode="bicubic", align_corners=False)
    old = vit.embed.kernel.detach()[:, :1]
    new = (old.flatten(2) @ _kernel_resize(8, 16).T).unflatten(-1, (16, 16))
    assert torch.allclose((old * small).sum((1, 2, 3)), (new * large).sum((1, 2, 3)), atol=1e-4)


def test_deterministic_and_saved(vit, tmp_path):
    torch.save(vit.state_dict(), tmp_path / "w.pt")
    twin = SwathViT(size="nano", patch=8).build().eval()
    twin.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert torch.equal(vit(batch(layer(S2))).pooled, twin(batch(layer(S2))).pooled)


def test_refuses_in_words(vit):
    with pytest.raises(UserError, match="no layer"):
        vit(Batch({}, Where.unknown(1)))
    odd = Sensor("odd", "optical", (Band("x", unit="class"),))
    with pytest.raises(UserError, match="unknown unit"):
        vit(batch(layer(odd)))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_on_meta(size):
    with torch.device("meta"):
        vit = SwathViT(size=size).build()
    millions = sum(p.numel() for p in vit.parameters()) / 1e6
    low, high = {"nano": (1, 3), "tiny": (6, 8), "small": (24, 27), "base": (91, 95), "large": (310, 320)}[size]
    assert low < millions < high
