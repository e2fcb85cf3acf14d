"""Files as published (training models, nested, prefixed) fill the encoder; the rest is accounted for."""

import pytest
import torch

from swath.core import UserError
from swath.models import build_encoder
from swath.models.encoders.gfm import SIZES as GFM
from swath.models.encoders.gfm import GFMPretraining
from swath.models.encoders.mpmae import SIZES as MPMAE
from swath.models.encoders.mpmae import ConvNeXtV2
from swath.models.encoders.olmoearth import SIZES as OLMO
from swath.models.encoders.olmoearth import LatentMIM
from swath.models.encoders.satlas import SIZES as SATLAS
from swath.models.encoders.satlas import SatlasEncoder
from swath.models.encoders.ssl4eo_resnet import SIZES as RESNET
from swath.models.encoders.ssl4eo_resnet import ResNetEncoder
from swath.models.encoders.terramind import PIXELS, Plan, TerraMindModel


def terramind():
    vocab = {"tok_lulc@224": 7, "coords": 9}
    plan = Plan(192, 12, 3, False, 1, pixels=PIXELS, vocab=vocab, targets=vocab)
    return TerraMindModel(plan).state_dict()


def gfm():
    state = GFMPretraining(GFM["tiny"], GFM["tiny"]).state_dict()
    return {"model": state, "epoch": torch.tensor(99)}


def olmoearth():
    return LatentMIM(OLMO["tiny"]).state_dict()


def satlas():
    state = SatlasEncoder(SATLAS["tiny"]).state_dict()
    renamed = {k.replace("fpn.fpn.", "intermediates.0.fpn.").replace("upsample.layers.", "intermediates.1.layers."): v
               for k, v in state.items()}  # fmt: skip
    return {**renamed, "heads.3.layers.0.weight": torch.zeros(2)}


def mpmae():
    state = {k: v for k, v in ConvNeXtV2(MPMAE["tiny"]).state_dict().items() if not k.startswith("norm.")}
    kernels = {k: v.flatten(2).permute(2, 1, 0) if v.shape[1] > 1 else v.flatten(1).T
               for k, v in state.items() if v.ndim == 4 and v.shape[0] > 1}  # fmt: skip
    official = {f"encoder.{k.replace('.weight', '.kernel') if k in kernels else k}": kernels.get(k, v)
                for k, v in state.items()}  # fmt: skip
    return {"model": {**official, "mask_token": torch.zeros(1), "loss_fn.log_vars": torch.zeros(12)}}


def resnet(prefix, inside):
    def make():
        state = {f"{prefix}{k}": v for k, v in ResNetEncoder(RESNET["tiny"]).state_dict().items()}
        return {inside: {**state, f"{prefix}fc.weight": torch.zeros(2), "module.queue": torch.zeros(3)}}

    return make


CASES = {
    "terramind": (terramind, {"kind": "terramind", "size": "tiny"}, 0),
    "gfm": (gfm, {"kind": "gfm", "size": "tiny"}, 0),
    "olmoearth": (olmoearth, {"kind": "olmoearth", "size": "tiny"}, 0),
    "satlas": (satlas, {"kind": "satlas", "size": "tiny"}, 0),
    "mpmae": (mpmae, {"kind": "mpmae", "size": "tiny"}, 2),
    "moco": (resnet("module.encoder_q.", "state_dict"), {"kind": "ssl4eo-resnet", "size": "tiny", "source": "moco"}, 0),
    "dino": (resnet("module.backbone.", "teacher"), {"kind": "ssl4eo-resnet", "size": "tiny", "source": "dino"}, 0),
    "decur": (resnet("module.backbone_2.", "model"), {"kind": "ssl4eo-resnet", "size": "tiny", "source": "decur"}, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_published_file_fills_the_encoder(case, tmp_path):
    make, config, absent = CASES[case]
    torch.manual_seed(1)
    torch.save(make(), tmp_path / "w.pth")
    torch.manual_seed(2)
    encoder = build_encoder(config, weights=tmp_path / "w.pth")
    proof = encoder.proof
    assert proof.missing == proof.unexpected == [] and len(proof.excepted) == absent
    assert proof.matched + len(proof.recomputed) + absent == len(encoder.state_dict())


def test_the_wrong_source_is_refused(tmp_path):
    torch.save(resnet("module.encoder_q.", "state_dict")(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"0\.0% of the module"):
        build_encoder({"kind": "ssl4eo-resnet", "size": "tiny", "source": "dino"}, weights=tmp_path / "w.pth")
