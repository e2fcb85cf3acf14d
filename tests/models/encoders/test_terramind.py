"""TerraMind: missing sensors, generation, training losses, gradients."""

import pytest
import torch

from swath.core import SENSORS, Batch, Layer, UnknownName, UserError, Where, collate
from swath.models import build_encoder
from swath.models.encoders.terramind import Example, Plan, TerraMindModel, decoder_mask

PIXELS, VOCAB = {"untok_sen2l2a@224": 12}, {"tok_lulc@224": 11, "tok_dem@224": 13}


def layer(sensor, b=2, t=1, size=32):
    g = torch.Generator().manual_seed(len(sensor.bands))
    x = torch.rand(b, t, len(sensor.bands), size, size, generator=g)
    return Layer.of(sensor, x if sensor.kind == "optical" else -20 * x)


def model():
    torch.manual_seed(3)
    return TerraMindModel(Plan(32, 2, 2, True, 2, 16, 32, 4.0, PIXELS, VOCAB, VOCAB)).eval()


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_a_missing_sensor_is_as_if_it_were_not_there(merge):
    torch.manual_seed(0)
    net = build_encoder({"kind": "terramind", "size": "tiny", "merge": merge}).eval()
    s2, s1 = SENSORS.get("sentinel2-l2a"), SENSORS.get("sentinel1-grd")
    one = Batch({s2.id: layer(s2)}, Where.unknown(2))
    both = Batch({s2.id: layer(s2), s1.id: layer(s1)}, Where.unknown(2))
    mixed = collate([both[0], one[1]])
    with torch.no_grad():
        a, b, c = net(mixed), net(one), net(both)
    torch.testing.assert_close(a.pooled[1], b.pooled[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.pooled[0], c.pooled[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(b.pooled[0], c.pooled[0], atol=1e-3)


def test_layers_on_different_grids_are_refused():
    net = build_encoder("terramind/tiny").eval()
    s2, s1 = SENSORS.get("sentinel2-l2a"), SENSORS.get("sentinel1-grd")
    odd = Batch({s2.id: layer(s2), s1.id: layer(s1, size=16)}, Where.unknown(2))
    with pytest.raises(UserError, match="one grid"):
        net(odd)


def test_generation_chains_and_unknown_targets_are_refused():
    net, x = model(), {"untok_sen2l2a@224": torch.rand(2, 12, 32, 32)}
    with torch.no_grad():
        made = net.generate(x, ["tok_lulc@224", "tok_dem@224"])
        alone = net.generate(x, ["tok_dem@224"])
    assert made["tok_lulc@224"].shape == (2, 2, 2) and int(made["tok_dem@224"].max()) < 13
    assert made["tok_dem@224"].shape == alone["tok_dem@224"].shape
    with pytest.raises(UnknownName, match="target modality"):
        net.logits(x, "tok_sen1rtc@224")
    with pytest.raises(UnknownName, match="modality"):
        net.encode({"untok_dem@224": torch.rand(2, 1, 32, 32)})


def test_losses_fall_and_reach_the_decoder():
    net = model().train()
    none, every = torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    counts = torch.tensor([[4, 0, 0, 0]]).expand(2, -1)
    ids = torch.randint(0, 11, (2, 2, 2), generator=torch.Generator().manual_seed(0))
    examples = {
        "untok_sen2l2a@224": Example(torch.rand(2, 12, 32, 32), none, every, torch.zeros_like(counts)),
        "tok_lulc@224": Example(ids, every, none, counts),
    }
    optim, values = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(80):
        loss = net.losses(examples)["mod"]
        optim.zero_grad()
        loss.backward()
        optim.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]
    assert net.mask_token.grad.abs().sum() > 0 and net.decoder_proj_context.weight.grad.abs().sum() > 0


def test_the_decoder_mask_keeps_modalities_apart():
    asked = torch.tensor([[True, False, True, True]])
    reach, which = torch.tensor([[1, 0, 2, 0]]), torch.tensor([[0, 0, 1, 1]])
    allowed = decoder_mask(asked, reach, which)[0]
    rows = [[True, False, False, False], [False, False, True, True], [False, False, True, True]]
    assert allowed[asked[0]].tolist() == rows and bool(allowed.any(1).all())


def test_a_tied_embedding_is_one_tensor():
    net = model()
    part = net.target("tok_lulc@224")
    assert part.to_logits.weight is part.token_emb.weight
    assert part.mod_emb is net.encoder_embeddings["tok_lulc@224"].mod_emb
