"""The plain transformers that stand without timm are timm's: names, sizes, start, outputs at any size."""

import subprocess
import sys

import pytest
import torch

from swath.models.encoders._timm_vit import PLAIN, TimmViT
from swath.models.encoders.timm import Timm, TimmEncoder
from swath.models.inputs import standard_input

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("model", sorted(PLAIN))
def test_names_and_sizes_are_timms(model):
    with torch.device("meta"):
        theirs = timm.create_model(model, num_classes=0, in_chans=6)
        ours = TimmViT(PLAIN[model], 6)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 96), (256, 224)])
@pytest.mark.parametrize("norm", [True, False])
def test_outputs_are_timms(height, width, norm):
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=4, dynamic_img_size=True).eval()
    ours = TimmViT(PLAIN["vit_tiny_patch16_224"], 4).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 4, height, width)
    with torch.no_grad():
        final, maps = ours.forward_intermediates(x, indices=[2, 5, 11], norm=norm)
        want, others = theirs.forward_intermediates(x, indices=[2, 5, 11], norm=norm)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(final, want, atol=1e-5, rtol=1e-5)
    for a, b in zip(maps, others, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_the_random_start_is_timms_in_law():
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=6).state_dict()
    for name, ours in TimmViT(PLAIN["vit_tiny_patch16_224"], 6).state_dict().items():
        if ours.numel() >= 96:
            assert ours.std() == pytest.approx(float(theirs[name].std()), rel=0.15, abs=1e-7), name
            assert float(ours.mean()) == pytest.approx(float(theirs[name].mean()), abs=0.01), name


def test_a_plain_vit_needs_neither_timm_nor_torchvision():
    code = (
        "import sys; from swath.models.encoders.timm import Timm; Timm(size='vit-small').build(); "
        "print([m for m in ('timm', 'torchvision', 'torch._dynamo') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_encoder_is_the_same_by_either_road(monkeypatch):
    torch.manual_seed(0)
    ours = Timm(model="vit_tiny_patch16_224").build().eval()
    assert isinstance(ours.net, TimmViT)
    monkeypatch.setattr("swath.models.encoders.timm.PLAIN", {})
    want = TimmEncoder("vit_tiny_patch16_224", standard_input("sentinel2-l2a", ("blue", "green", "red")), "x").eval()
    assert not isinstance(want.net, TimmViT)
    want.load_state_dict(ours.state_dict())
    assert (ours.spec.widths, ours.spec.strides, ours.spec.depth) == (
        want.spec.widths,
        want.spec.strides,
        want.spec.depth,
    )
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        a, b = ours._images(x), want._images(x)
    torch.testing.assert_close(a.pooled, b.pooled, atol=1e-5, rtol=1e-5)
    for m, n in zip(a.maps, b.maps, strict=True):
        torch.testing.assert_close(m, n, atol=2e-5, rtol=1e-5)
