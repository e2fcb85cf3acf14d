"""Baselines: timm networks by name, and random convolutional features against torchgeo's."""

import pytest
import torch

from swath.core import SENSORS, Batch, Layer, UnknownName, UserError, Where
from swath.models import build_encoder
from swath.models.encoders.mosaiks import Mosaiks, whiten
from swath.models.encoders.timm import Timm

BANDS = ("blue", "green", "red", "nir")


def batch(b=2, size=32, bands=BANDS, sensor="sentinel2-l2a"):
    sensor = SENSORS.get(sensor).select(bands)
    x = torch.rand(b, 1, len(bands), size, size, generator=torch.Generator().manual_seed(1))
    return Batch({sensor.id: Layer.of(sensor, x)}, Where.unknown(b))


def test_random_features_are_torchgeos():
    rcf = pytest.importorskip("torchgeo.models.rcf").RCF(4, 64, 3, -1.0, seed=5)
    ours = Mosaiks(size="tiny", kernel=3).build()
    ours.weight.copy_(rcf.weights)
    x = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    seen = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    torch.testing.assert_close(ours.responses(x, seen)[0], rcf(x), atol=1e-5, rtol=1e-5)


def test_whitening_is_torchgeos():
    rcf = pytest.importorskip("torchgeo.models.rcf").RCF(4, 64, 3)
    patches = torch.randn(200, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    want = torch.from_numpy(rcf._normalize(patches.numpy()))
    torch.testing.assert_close(whiten(patches), want, atol=1e-3, rtol=1e-3)


def test_empirical_filters_wait_for_data_and_repeat():
    ours = Mosaiks(size="tiny", filters="empirical").build()
    with pytest.raises(UserError, match="fit"):
        ours(batch())
    ours.fit(batch(4))
    twin = Mosaiks(size="tiny", filters="empirical").build()
    twin.fit(batch(4))
    assert torch.equal(ours.weight, twin.weight) and ours(batch()).pooled.std() > 0


def test_invalid_pixels_say_nothing():
    ours, data = Mosaiks(size="tiny").build(), batch()
    layer = data.layers["sentinel2-l2a"]
    valid = layer.valid.clone()
    valid[..., :10, :] = False
    one = Layer(layer.sensor, torch.where(valid, layer.x, torch.zeros(())), valid)
    two = Layer(layer.sensor, torch.where(valid, layer.x, torch.full((), 9.0)), valid)
    a, b = (ours(Batch({layer.sensor.id: v}, data.where)) for v in (one, two))
    assert torch.equal(a.pooled, b.pooled)
    assert not torch.allclose(a.pooled, ours(data).pooled, atol=1e-4)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_by_name(model):
    torch.manual_seed(0)
    net = Timm(model=model, sensor="sentinel2-l2a", bands=BANDS).build().eval()
    with torch.no_grad():
        out = net(batch(size=64))
        inner = net.net(torch.zeros(1, 4, 64, 64))
    assert out.pooled.shape == (2, net.spec.pooled)
    for m, width, stride in zip(out.maps, net.spec.widths, net.spec.strides, strict=True):
        assert tuple(m.shape) == (2, width, 64 / stride, 64 / stride)
    assert (out.tokens is not None) == (model == "test_vit")
    assert inner.shape[1] == net.spec.pooled


def test_timm_pooled_is_timms_own(tmp_path):
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=10, dynamic_img_size=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = build_encoder({"kind": "timm", "model": "test_vit"}, weights=tmp_path / "w.pth")
    assert ours.proof.fraction == 1.0 and sorted(ours.proof.dropped) == ["head.bias", "head.weight"]
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        want = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        assert torch.allclose(ours.eval()._images(x).pooled, want, atol=1e-6)


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "test_vit", "test_resnet"])
def test_maps_are_timms_own_features(model):
    import timm

    torch.manual_seed(0)
    ours = Timm(model=model).build().eval()
    count = len(ours.spec.widths)
    chosen = ours.indices if isinstance(ours.indices, list) else list(range(len(ours.net.feature_info)))[-count:]
    free = {"dynamic_img_size": True} if "vit" in model else {}
    theirs = timm.create_model(model, features_only=True, out_indices=chosen, **free).eval()
    there = theirs.model if hasattr(theirs, "model") else theirs
    assert not there.load_state_dict(ours.net.state_dict(), strict=False).missing_keys
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = ours._images(x)
        for a, b in zip(found.maps, theirs(x), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
        if found.tokens is not None:
            normed = ours.net.norm(found.maps[-1].flatten(2).transpose(1, 2))
            torch.testing.assert_close(found.tokens, normed, atol=2e-5, rtol=1e-5)


def test_a_runs_own_statistics_standardise_a_custom_input():
    from swath.adapt.task import with_statistics

    torch.manual_seed(0)
    net = Timm(model="test_resnet", sensor="sentinel2-l2a", bands=BANDS).build().eval()
    seen = []
    net.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net.net.forward_intermediates = lambda x, **_: seen.append(x) or (x, [x] * len(net.spec.widths))
    net.net.forward_head = lambda x, **_: x.mean((2, 3))
    data = batch(b=8)
    x = data.layers["sentinel2-l2a"].x
    stats = {n: (float(x[:, :, i].mean()), float(x[:, :, i].std())) for i, n in enumerate(BANDS)}
    net(with_statistics(data, {"sentinel2-l2a": stats}))
    assert torch.allclose(seen[-1].mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(seen[-1].std((0, 2, 3)), torch.ones(4), atol=1e-2)
    net(data)
    want = net.spec.inputs[0]
    told = (x[:, 0, 0] - want.mean[0]) / want.std[0]
    assert torch.allclose(seen[-1][:, 0], told, atol=1e-4)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownName, match="resnet5"):
        Timm(model="resnet5").build()
    with pytest.raises(UserError, match="statistics"):
        Mosaiks(sensor="landsat8-toa", bands=("lwir11",)).build()
