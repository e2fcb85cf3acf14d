"""Every decoder on a pyramid and on plain maps: size, width, gradients."""

import pytest
import torch

from swath.models.decoders import DECODERS

CASES = {
    "pyramid": ((8, 16, 24, 32), (4.0, 8.0, 16.0, 32.0), 64),
    "plain": ((24,) * 4, (16.0,) * 4, 64),
    "one": ((24,), (8.0,), 64),
    "two": ((24, 24), (8.0, 8.0), 40),
    "odd": ((8, 16, 24, 32), (4.0, 8.0, 16.0, 32.0), 72),
}


@pytest.mark.parametrize("name", DECODERS.names())
@pytest.mark.parametrize("case", CASES)
def test_decoder(name, case):
    widths, strides, side = CASES[case]
    torch.manual_seed(0)
    decoder = DECODERS.get(name)().build(widths, strides)
    maps = [
        torch.randn(2, w, -int(-side // s), -int(-side // s), requires_grad=True)
        for w, s in zip(widths, strides, strict=True)
    ]
    out = decoder(maps)
    assert out.shape[:2] == (2, decoder.width)
    assert abs(out.shape[-1] * decoder.stride - side) <= max(strides)
    out.square().mean().backward()
    assert all(p.grad is not None for p in decoder.parameters())
    assert maps[-1].grad is not None and bool(maps[-1].grad.abs().sum() > 0)


@pytest.mark.parametrize("name", DECODERS.names())
def test_samples_do_not_meet(name):
    widths, strides, _ = CASES["plain"]
    decoder = DECODERS.get(name)().build(widths, strides).train()
    maps = [torch.randn(2, w, 4, 4) for w in widths]
    both, alone = decoder(maps), decoder([m[:1] for m in maps])
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-4)
