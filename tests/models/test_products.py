"""Linear maps by oneDNN: torch's values and gradients, a gelu in the same pass, and the plain road where it must be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from swath.models.layers import products
from swath.models.layers.products import Linear, Point, Up, linear, linear_gelu, mlp
from swath.models.layers.transformer import Mlp, mlp_of
from swath.train.compute import Operations


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(products, "LEAST", 0)


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(1, 50), st.integers(1, 40), st.booleans(), st.booleans())
def test_values_and_gradients_are_torchs(n, m, inside, outside, biased, across):
    least, products.LEAST = products.LEAST, 0
    try:
        g = torch.Generator().manual_seed(n + 100 * inside)
        x = torch.randn(m, n, inside, generator=g)
        x = (x.transpose(0, 1).contiguous().transpose(0, 1) if across else x).requires_grad_()
        w = torch.randn(outside, inside, generator=g).requires_grad_()
        b = torch.randn(outside, generator=g).requires_grad_() if biased else None
        ours, want = linear(x, w, b), F.linear(x, w, b)
        assert "_Linear" in type(ours.grad_fn.next_functions[0][0]).__name__
        close(ours, want)
        up = torch.randn(want.shape, generator=g)
        wrt = [x, w, *([b] if biased else [])]
        for a, c in zip(torch.autograd.grad(ours, wrt, up), torch.autograd.grad(want, wrt, up), strict=True):
            close(a, c)
        with torch.no_grad():
            close(linear_gelu(x, w, b), F.gelu(F.linear(x, w, b)))
    finally:
        products.LEAST = least


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_asks_for_no_gradient_gets_none(always, frozen):
    parts = {"x": torch.randn(4, 5), "weight": torch.randn(3, 5), "bias": torch.randn(3)}
    live = {k: v.clone().requires_grad_(k != frozen) for k, v in parts.items()}
    want = {k: v.clone().requires_grad_(k != frozen) for k, v in parts.items()}
    linear(**live).square().sum().backward()
    F.linear(want["x"], want["weight"], want["bias"]).square().sum().backward()
    for k in parts:
        assert (live[k].grad is None) == (k == frozen)
        if k != frozen:
            close(live[k].grad, want[k].grad)


def test_bfloat16_gelu_is_rounded_once(always):
    x, w, b = torch.randn(64, 96).bfloat16(), torch.randn(32, 96).bfloat16(), torch.randn(32).bfloat16()
    want = F.gelu(F.linear(x.double(), w.double(), b.double()))
    with torch.no_grad():
        one = (linear_gelu(x, w, b).double() - want).abs().mean()
    two = (F.gelu(F.linear(x, w, b)).double() - want).abs().mean()
    assert one <= two


def test_the_plain_road_under_autocast_compilation_and_export(always):
    layer = Linear(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16
    graphs = []
    torch.compile(layer, backend=lambda graph, _: graphs.append(graph.code) or graph.forward)(torch.randn(2, 8))
    assert len(graphs) == 1
    assert "linear" in graphs[0]
    assert "mkldnn" not in graphs[0]
    made = torch.export.export(layer, (torch.randn(2, 8),))
    assert "mkldnn" not in str(made.graph)


def test_an_mlp_leaves_a_wrapped_or_hooked_layer_alone(always):
    x, seen = torch.randn(3, 8), []
    for which in ("fc1", "fc2"):
        pair = Mlp(8, 16)
        pair.get_submodule(which).register_forward_hook(lambda *_: seen.append(1))
        pair(x)
        with torch.no_grad():
            pair(x)
    assert seen == [1] * 4
    double, last = nn.Sequential(Linear(8, 16)), nn.Sequential(Linear(16, 8))
    for fc1, fc2 in ((double, last), (double, last[0]), (double[0], last)):
        want = last(F.gelu(double(x)))
        close(mlp_of(fc1, fc2, x), want)
        with torch.no_grad():
            close(mlp_of(fc1, fc2, x), want)


def test_flops_are_counted(always):
    layer, plain = Linear(8, 4), nn.Linear(8, 4)
    sums = []
    for each in (layer, plain):
        with Operations() as noted:
            each(torch.randn(6, 8, requires_grad=True)).sum().backward()
        sums.append(noted.flops())
    assert sums[0] == sums[1] == 3 * 2 * 6 * 8 * 4
    with FlopCounterMode(display=False) as torchs, torch.no_grad():
        linear_gelu(torch.randn(6, 8), layer.weight, layer.bias)
    assert torchs.get_total_flops() == 2 * 6 * 8 * 4


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
def test_squares_without_overlap_are_the_transposed_convolution(batch, inside, outside, size, high, wide):
    layer = Up(inside, outside, size)
    x, bias = torch.randn(batch, inside, high, wide, requires_grad=True), layer.bias
    wrt, want = [x, layer.weight, bias], F.conv_transpose2d(x, layer.weight, bias, size)
    ours, up = layer(x), torch.randn_like(want)
    close(ours, want)
    for a, c in zip(torch.autograd.grad(ours, wrt, up), torch.autograd.grad(want, wrt, up), strict=True):
        close(a, c)
    empty = layer(x[:0])
    assert empty.shape == want[:0].shape


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
def test_one_pixel_is_a_product(batch, inside, outside, high, wide):
    layer = Point(inside, outside)
    x = torch.randn(batch, inside, high, wide, requires_grad=True)
    wrt, up = [x, layer.weight, layer.bias], torch.randn(batch, outside, high, wide)
    want = F.conv2d(x, layer.weight, layer.bias)
    for laid in (x, x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):  # the second lies channels last
        ours = layer(laid)
        close(ours, want)
        for a, c in zip(torch.autograd.grad(ours, wrt, up), torch.autograd.grad(want, wrt, up, retain_graph=True),
                        strict=True):  # fmt: skip
            close(a, c)
    single = x[0] if batch else x
    close(layer(single), F.conv2d(single, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_a_convolution_of_one_pixel_is_counted_as_one():
    sums = []
    for each in (Point(8, 3), nn.Conv2d(8, 3, 1)):
        with Operations() as noted:
            each(torch.randn(2, 8, 5, 5, requires_grad=True)).sum().backward()
        sums.append(noted.flops())
    assert sums[0] == sums[1] == 3 * 2 * 2 * 25 * 8 * 3


@pytest.mark.parametrize("frozen", [(), ("x",), ("w1", "b1", "w2", "b2"), ("w2", "b2"), ("x", "w1", "b1"), ("b1",)])
@pytest.mark.parametrize("biased", [True, False])
def test_an_mlp_is_its_three_parts_bit_for_bit(always, frozen, biased):
    torch.manual_seed(0)
    shapes = {"x": (3, 7, 12), "w1": (20, 12), "b1": (20,), "w2": (12, 20), "b2": (12,)}
    parts = {k: torch.randn(s).requires_grad_(k not in frozen) for k, s in shapes.items()}
    given = [parts[k] if biased or k[0] != "b" else None for k in shapes]
    live = [t for t in given if t is not None and t.requires_grad]
    want = linear(F.gelu(linear(*given[:3])), *given[3:])
    ours, up = mlp(*given), torch.randn_like(want)
    assert torch.equal(ours, want)
    wants, found = torch.autograd.grad(want, live, up), torch.autograd.grad(ours, live, up)
    assert all(map(torch.equal, found, wants))
    with torch.no_grad():
        assert torch.equal(mlp(*given), want)


def test_the_gradient_that_an_mlp_is_given_stays_as_it_is(always):
    x = torch.randn(6, 12, requires_grad=True)
    y = mlp(x, torch.randn(20, 12), None, torch.randn(12, 20), None)
    up = torch.randn_like(y)
    before = up.clone()
    first = torch.autograd.grad(y, x, up, retain_graph=True)[0]
    assert torch.equal(up, before)
    assert torch.equal(torch.autograd.grad(y, x, up)[0], first)
