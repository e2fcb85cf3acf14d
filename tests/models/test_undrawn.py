"""Networks that are built to be loaded: nothing is drawn."""

import pytest
import torch
from torch import nn

from swath.models import build_encoder
from swath.models.layers.undrawn import undrawn

SMALL = {"kind": "timm", "size": "vit-small", "sensor": "sentinel2-l2a", "bands": ["green", "red", "nir"]}


def drawn(build) -> bool:
    before = torch.get_rng_state()
    build()
    return not torch.equal(before, torch.get_rng_state())


LAYERS = {
    "linear": lambda: nn.Linear(3, 4),
    "convolution": lambda: nn.Conv2d(3, 4, 3),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "embedding": lambda: nn.Embedding(5, 3),
    "recurrent": lambda: nn.LSTM(3, 4),
    "law": lambda: nn.init.trunc_normal_(nn.Parameter(torch.empty(4, 4)), std=0.02),
}


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_not_drawn(name):
    assert drawn(LAYERS[name])
    with undrawn():
        assert not drawn(LAYERS[name])
        made = LAYERS[name]()
        every = [made] if isinstance(made, nn.Parameter) else list(made.parameters())
        assert every and all(torch.isfinite(p).all() for p in every)


def test_what_is_no_parameter_is_drawn():
    with undrawn():
        assert drawn(lambda: torch.empty(4).normal_())
        assert drawn(lambda: torch.randn(4))
        assert (nn.init.zeros_(nn.Parameter(torch.ones(3))) == 0).all()
        assert (nn.LayerNorm(4).weight == 1).all()


def test_an_encoder_with_weights_is_loaded_and_not_drawn(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    first = build_encoder(SMALL)
    save_file({k: v.contiguous() for k, v in first.state_dict().items()}, tmp_path / "w.safetensors")
    found = []
    assert not drawn(lambda: found.append(build_encoder(SMALL, weights=tmp_path / "w.safetensors")))
    (again,) = found
    own = again.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in first.state_dict().items()) and len(own) == len(first.state_dict())
    assert not again.proof.excepted and not again.proof.missing
    assert drawn(lambda: build_encoder(SMALL))


def test_what_the_file_lacks_is_drawn(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    state = {k.removeprefix("net."): v for k, v in build_encoder(SMALL).state_dict().items() if ".fc1." not in k}
    save_file(state, tmp_path / "part.safetensors")
    starts = []
    for _ in range(2):
        torch.manual_seed(5)
        part = build_encoder(SMALL, weights=tmp_path / "part.safetensors", exceptions=("*.fc1.*",))
        starts.append({k: v for k, v in part.state_dict().items() if ".fc1.weight" in k})
    assert len(starts[0]) == 12
    for name, start in starts[0].items():
        assert torch.equal(start, starts[1][name])
        assert 0.005 < float(start.std()) < 0.1
