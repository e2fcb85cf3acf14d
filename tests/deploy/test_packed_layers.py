"""Packed networks answer as the plain ones do."""

import copy

import pytest
import torch
from torch import nn

from swath.core import UserError
from swath.deploy.packed import Exact, PackedConv, PackedLinear, PackedPatches, PackedUp, pack, packed, supported
from swath.models.layers.transformer import Block

pytestmark = pytest.mark.skipif(not supported("fp32"), reason="this build of torch has no oneDNN")


def both(net, x, precision="fp32"):
    torch.manual_seed(0)
    net = net.eval()
    other = copy.deepcopy(net)
    assert pack(other, precision)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return net(x).float(), other(x).float(), other


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 5), (3, 16, 16), (1, 33, 9)])
def test_convolutions_of_every_kind(shape):
    b, h, w = shape
    layers = nn.Sequential(
        nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, 40, 2, 2), nn.GELU(),
        nn.Conv2d(40, 64, 3, padding=2, dilation=2, groups=2, bias=False), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 3, 2, padding=1), nn.Conv2d(32, 48, (3, 5), stride=2, padding=(1, 2)),
        nn.Conv2d(48, 32, 3, padding="same"), nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 5, 1),
    )  # fmt: skip
    if min(h, w) < 3:
        layers = nn.Sequential(*(m for m in layers if getattr(m, "padding_mode", "") != "reflect"))
    a, c, other = both(layers, torch.randn(b, 24, h, w))
    assert torch.allclose(a, c, atol=1e-5)
    kinds = [type(m) for m in other]
    assert kinds.count(PackedConv) == 3 and kinds.count(PackedUp) == 1 and kinds[1] is nn.Identity
    assert other[0].weight.shape == layers[0].weight.shape and torch.equal(other[0].weight, layers[0].weight)


@pytest.mark.parametrize("size", [(16, 16), (4, 7)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_patches_are_a_linear_map_of_each(size, precision):
    if not supported(precision):
        pytest.skip("no bf16 here")
    net = nn.Sequential(nn.Conv2d(6, 70, size, size), nn.ReLU(), nn.Conv2d(70, 5, 1))
    for h, w in ((48, 32), (50, 39), (16, 16)):  # what does not fill a patch is left out, as by the convolution
        a, c, other = both(net, torch.randn(2, 6, h, w)[:, :, :, :w], precision)
        assert a.shape == c.shape and torch.allclose(a, c, atol=1e-5 if precision == "fp32" else 0.03)
        first = other[0].layer if precision == "bf16" else other[0]
        assert type(first) is PackedPatches and torch.equal(other[0].weight, net[0].weight)


def test_a_transformer_and_its_weights():
    net = nn.Sequential(Block(96, 4), Block(96, 4), nn.Linear(96, 3))
    a, c, other = both(net, torch.randn(2, 17, 96))
    assert torch.allclose(a, c, atol=1e-5)
    assert isinstance(other[0].mlp.fc1, PackedLinear) and other[0].mlp.fc1.after == "gelu"
    assert isinstance(other[0].mlp.fc2, PackedLinear) and isinstance(other[0].attn.qkv, PackedLinear)
    assert torch.equal(other[0].attn.qkv.weight, net[0].attn.qkv.weight)
    rows = torch.tensor([[0, 3], [5, 1]])
    with torch.inference_mode():
        x = torch.randn(2, 17, 96)
        assert torch.allclose(net[0](x.clone(), rows=rows), other[0](x.clone(), rows=rows), atol=1e-5)


@pytest.mark.skipif(not supported("bf16"), reason="no bf16 here")
def test_bf16_keeps_patches_and_the_last_layer():
    net = nn.Sequential(nn.Conv2d(6, 64, 8, 8), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 70, 1))
    a, c, other = both(net, torch.randn(2, 6, 32, 32), "bf16")
    assert [type(m) for m in other] == [Exact, PackedConv, Exact]
    with torch.inference_mode():
        truth, given = net(torch.ones(1, 6, 32, 32)), other(torch.ones(1, 6, 32, 32))
    assert given.dtype == torch.float32 and not torch.equal(truth, given) and torch.allclose(truth, given, atol=0.02)
    assert torch.allclose(a, c, atol=0.05)


def test_twice_is_once_and_another_precision_is_refused():
    net = nn.Sequential(nn.Conv2d(6, 64, 8, 8), nn.Conv2d(64, 70, 1))
    assert pack(net, "fp32") and pack(net, "fp32")
    assert [type(m) for m in net] == [PackedPatches, PackedConv]
    if supported("bf16"):
        with pytest.raises(UserError, match="made ready for fp32"):
            pack(net, "bf16")


def test_what_is_watched_or_small_is_left():
    net = nn.Sequential(nn.Linear(96, 96), nn.Linear(96, 96), nn.Linear(8, 8))
    net[0].register_forward_hook(lambda m, i, o: o + 1)
    nn.utils.parametrizations.weight_norm(net[1])
    assert pack(net, "fp32")
    assert type(net[0]) is nn.Linear and not isinstance(net[1], PackedLinear) and type(net[2]) is nn.Linear


@pytest.mark.parametrize("which", ["fc1", "fc2"])
def test_half_of_an_mlp_may_be_watched(which):
    net, seen = nn.Sequential(Block(96, 4)).eval(), []
    getattr(net[0].mlp, which).register_forward_hook(lambda m, i, o: seen.append(which))
    x = torch.randn(2, 5, 96)
    with torch.inference_mode():
        want = net(x)
        assert pack(net, "fp32") and torch.allclose(net(x), want, atol=1e-5) and len(seen) == 2


def test_a_copy_made_ready_leaves_the_network_as_it_was():
    net = nn.Sequential(Block(96, 4), nn.Linear(96, 3)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(2, 17, 96)
    for precision in ("fp32", "bf16") if supported("bf16") else ("fp32",):
        ready = packed(net, precision)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            assert torch.allclose(net(x).float(), ready(x).float(), atol=1e-5 if precision == "fp32" else 0.05)
        assert isinstance(ready[0].attn.qkv, PackedLinear) and type(net[0].attn.qkv) is not PackedLinear
        assert ready[0].norm1.weight is net[0].norm1.weight
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
