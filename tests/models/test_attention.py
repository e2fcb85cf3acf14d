"""Attention in bf16 on a CPU: the plain products are the fused kernel's values and gradients, to bf16's rounding."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from swath.models.layers import attention
from swath.models.layers.attention import attend


def exact(packed, q=None, bias=None):
    parts = packed.permute(2, 0, 3, 1, 4).unbind(0)
    q = parts[0] if q is None else q.transpose(1, 2)
    return scaled_dot_product_attention(q, parts[-2], parts[-1], bias).transpose(1, 2).flatten(2)


def both(bias, apart=False, dtype=torch.bfloat16):
    """(out, gradients) of `attend` in `dtype` and of the exact computation; `apart`: queries are not packed."""
    torch.manual_seed(0)
    x, asks = torch.randn(2, 20, 2 if apart else 3, 4, 16), torch.randn(2, 9, 4, 16)
    w, found = torch.randn(2, 9 if apart else 20, 64), []
    for kind, run in ((dtype, attend), (torch.float64, exact)):
        y, q = (v.to(dtype).to(kind).requires_grad_() for v in (x, asks))
        given = bias if bias is None or bias.dtype == torch.bool else bias.to(kind)
        before = y.detach().clone()
        out = run(y, q if apart else None, given)
        out.backward(w.to(kind))
        assert torch.equal(y, before), "what is given stays as it is"
        found.append((out.detach().double(), y.grad.double(), q.grad.double() if apart else None))
    return found


KEYS = torch.ones(2, 1, 1, 20, dtype=torch.bool)
KEYS[1, ..., 12:] = False


@pytest.mark.parametrize("held", [1, 2**20], ids=["one by one", "at once"])
@pytest.mark.parametrize("bias", [None, KEYS, -torch.rand(1, 4, 20, 20) * 3], ids=["none", "keys", "added"])
def test_values_and_gradients(bias, held, monkeypatch):
    monkeypatch.setattr(attention, "IN_CACHE", held)
    (out, grad, _), (want, slope, _) = both(bias)
    assert float((out - want).norm() / want.norm()) < 0.01
    assert float((grad - slope).norm() / slope.norm()) < 0.01
    if bias is KEYS:
        assert grad[1, 12:, 1:].abs().max() == 0, "keys that are hidden learn nothing"


@pytest.mark.parametrize("bias", [None, KEYS], ids=["none", "keys"])
def test_queries_of_their_own(bias):
    for ours, theirs in zip(*both(bias, apart=True), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_one_token_alone_is_not_written_over():
    x = torch.randn(1, 1, 3, 2, 4).bfloat16().requires_grad_()
    before = x.detach().clone()
    torch.testing.assert_close(attend(x), before[:, :, 2].flatten(2))
    assert torch.equal(x, before)


def test_it_is_the_fused_kernel_where_that_is_faster(monkeypatch):
    calls = []
    monkeypatch.setattr(attention._Plain, "apply", lambda *a: calls.append(a) or a[0])
    x = torch.randn(1, 8, 3, 2, 4)
    attend(x.requires_grad_())
    half = x.detach().bfloat16()
    attend(half)
    assert not calls
    attend(half.requires_grad_())
    assert len(calls) == 1
    monkeypatch.setattr(attention, "MOST_KEPT", 2 * 8 * 8 - 1)
    attend(half)
    assert len(calls) == 1


def test_a_second_derivative_is_refused_not_wrong():
    y = torch.randn(2, 9, 3, 2, 8).bfloat16().requires_grad_()
    (first,) = torch.autograd.grad(attend(y).square().sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("held", [1, 2**20], ids=["one by one", "at once"])
@pytest.mark.parametrize("apart", [False, True])
def test_answers_without_gradients(apart, held, monkeypatch):
    monkeypatch.setattr(attention, "IN_CACHE", held)
    torch.manual_seed(1)
    x, asks = torch.randn(3, 33, 2 if apart else 3, 2, 16), torch.randn(3, 5, 2, 16) if apart else None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        given = attend(x.bfloat16(), None if asks is None else asks.bfloat16())
    assert given.dtype == torch.bfloat16 and torch.allclose(given.float(), exact(x, asks), atol=0.03)


def test_the_cuts_of_a_batch_change_no_bit(monkeypatch):
    x = torch.randn(5, 33, 3, 2, 16).bfloat16()
    with torch.inference_mode():
        whole = attend(x)
        monkeypatch.setattr(attention, "IN_CACHE", 2 * 2 * 33 * 33)
        assert torch.equal(attend(x), whole)
        assert attend(x[:0]).shape == (0, 33, 32)


def test_learning_in_float32_is_the_fused_kernel_bit_for_bit():
    torch.manual_seed(2)
    x = torch.randn(3, 21, 3, 4, 16, requires_grad=True)
    ours, want = attend(x), exact(x)
    assert type(ours.grad_fn).__name__ == "_FusedBackward"
    assert torch.equal(ours, want)
    up = torch.randn_like(want)
    assert torch.equal(torch.autograd.grad(ours, x, up)[0], torch.autograd.grad(want, x, up)[0])
    (across,) = torch.autograd.grad(attend(x).transpose(1, 2).contiguous(), x, up.transpose(1, 2))
    assert torch.equal(across, torch.autograd.grad(exact(x), x, up)[0])
