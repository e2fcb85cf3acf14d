"""Every encoder family answers the same after its weights were laid out for the processor."""

import pytest
import torch

from contract.test_encoders import batch_for
from swath.deploy.packed import pack, supported
from swath.models import ENCODERS, build_encoder


@pytest.mark.skipif(not supported("fp32"), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("family", ENCODERS.names())
def test_packed(family):
    torch.manual_seed(7)
    encoder = build_encoder(f"{family}/tiny").eval()
    batch = batch_for(encoder.spec)
    with torch.inference_mode():
        plain = encoder(batch)
        pack(encoder, "fp32")
        packed = encoder(batch)
    for a, b in zip([*plain.maps, plain.pooled], [*packed.maps, packed.pooled], strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()) + 1e-6)
