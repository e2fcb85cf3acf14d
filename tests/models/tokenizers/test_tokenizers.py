"""Tokenizers: ids and codes go both ways, the sampler undoes its own noise, gradients pass the rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.core import UnknownName, UserError
from swath.models.tokenizers import FiniteScalar, TokenizerPlan, build_tokenizer
from swath.models.tokenizers.diffusion import Noise, UNetPlan, sample


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_ids_and_codes_are_one_to_one(levels, seed):
    fsq = FiniteScalar(levels)
    ids = torch.randint(0, fsq.size, (2, 3, 3), generator=torch.Generator().manual_seed(seed))
    codes = fsq.codes(ids)
    assert codes.min() >= 0 and codes.max() <= 1
    again, back = fsq(torch.logit(codes.clamp(1e-6, 1 - 1e-6)))
    assert torch.equal(back.long(), ids) and torch.allclose(again, codes, atol=1e-6)


def test_gradients_pass_straight_through():
    z = torch.zeros(1, 2, 2, 2, requires_grad=True)
    codes, _ = FiniteScalar((5, 3))(z)
    codes.sum().backward()
    assert torch.allclose(z.grad, torch.full_like(z, 0.25))


def test_ddim_with_a_perfect_predictor_gives_the_image():
    x0 = torch.rand(2, 3, 8, 8) * 1.8 - 0.9
    for steps in (1, 5, 20):
        out = sample(lambda x, t, latent: x0, torch.zeros(2, 1, 2, 2), torch.randn(2, 3, 8, 8), Noise(), steps)
        assert torch.allclose(out, x0, atol=1e-5)


def test_the_last_step_is_pure_noise():
    kept = Noise().kept()
    assert float(kept[-1]) == 0 and bool((kept.diff() < 0).all())
    assert Noise().timesteps(4) == [999, 749, 499, 249]
    x, noise = torch.rand(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    assert torch.allclose(Noise().add(x, noise, torch.tensor([999])), noise)


def test_encode_decode_shapes_and_refusals():
    torch.manual_seed(0)
    vq = build_tokenizer(TokenizerPlan(4, (4, 4), 32, 1, 2, 1, 32, 8)).eval()
    classes = torch.randint(0, 4, (2, 32, 40))
    with torch.no_grad():
        codes, ids = vq.encode(classes)
        assert ids.shape == (2, 4, 5) and vq.decode_ids(ids).shape == (2, 4, 32, 40)
        assert torch.allclose(vq.decode_ids(ids), vq.decode(codes), atol=1e-5)
    with pytest.raises(UserError, match=r"0\.\.3 are known"):
        vq.encode(classes + 1)
    with pytest.raises(UnknownName, match="tokenizer"):
        build_tokenizer("lulx")
    unet = UNetPlan(3, 2, (32, 32), (False, True), 1)
    di = build_tokenizer(TokenizerPlan(3, (4, 4), 32, 1, 2, 0, 32, 16, unet=unet)).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert di(x, torch.randn_like(x), steps=2).shape == x.shape
