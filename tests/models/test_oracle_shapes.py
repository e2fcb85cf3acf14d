"""Adapters read sizes from weights and config: fixtures of other sizes build the module that made them."""

import copy
from dataclasses import replace

import pytest
import torch

from swath.models.encoders.dinov3 import DinoV3Encoder
from swath.models.encoders.dinov3 import Plan as DinoPlan
from swath.models.encoders.gfm import GFMPretraining
from swath.models.encoders.mpmae import ConvNeXtV2
from swath.models.encoders.mpmae import Plan as MPPlan
from swath.models.encoders.olmoearth import LatentMIM
from swath.models.encoders.olmoearth import Plan as OlmoPlan
from swath.models.encoders.satlas import LANDSAT, SENTINEL2, SatlasEncoder
from swath.models.encoders.satlas import Plan as SatPlan
from swath.models.encoders.terramind import Plan as TerraPlan
from swath.models.encoders.terramind import TerraMindModel
from swath.models.layers.swin import SwinPlan
from swath.models.loading import load_state
from swath.models.oracle import ORACLES
from swath.models.tokenizers import TokenizerPlan, build_tokenizer
from swath.models.tokenizers.diffusion import UNetPlan

TERRA = {"dim": 48, "num_heads": 3, "mlp_ratio": 4, "img_size": 32, "patch": 8}


def terra():
    pixels, vocab = {"untok_sen2l2a@224": 12, "untok_sen1grd@224": 2}, {"tok_lulc@224": 20, "coords": 33}
    plan = TerraPlan(48, 3, 3, True, 2, 8, 32, 4.0, pixels, vocab, vocab)
    return TerraMindModel(plan), "terramind", {"reference": "terratorch terramind", "config": TERRA}


def divae():
    unet = UNetPlan(3, 4, (32, 32, 64), (False, False, True), 2, 1, 4)
    plan = TokenizerPlan(3, (4, 4, 4, 4), 48, 1, 3, 0, 64, unet=unet)
    config = {"codebook": "4-4-4-4", "num_heads": 3, "zero_terminal_snr": True}
    return build_tokenizer(plan), "terramind-tokenizer", {"reference": "terramind.tokenizer DiVAE", "config": config}


def vqvae():
    plan = TokenizerPlan(6, (5, 5, 3), 32, 3, 4, 1, 32, 8)
    meta = {"reference": "terramind.tokenizer VQVAE", "config": {"codebook": "5-5-3"}}
    return build_tokenizer(plan), "terramind-tokenizer", meta


def satlas():
    plan = SatPlan(LANDSAT, False, (24, (2, 2, 2, 2), (1, 2, 2, 4), 2), fpn=12, classes=7)
    config = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window": [2, 2], "num_channels": 11,
              "multi": False}  # fmt: skip
    return SatlasEncoder(plan), "satlas", {"reference": "satlaspretrain_models", "config": config}


def satlas_resnet():
    config = {"num_channels": 9, "multi": False}
    plan = SatPlan(SENTINEL2, resnet=(1, 2, 1, 1), fpn=16, classes=5)
    return SatlasEncoder(plan), "satlas", {"reference": "satlaspretrain_models", "config": config}


def dino():
    plan = DinoPlan(48, 3, 3, storage=2, patch=8, ratio=2.0, local_norm=True, eps=1e-6)
    config = {"num_heads": 3, "ffn_ratio": 2, "pos_embed_rope_base": 100, "norm_layer": "layernorm"}
    return DinoV3Encoder(plan), "dinov3", {"reference": "facebookresearch/dinov3 ViT", "config": config}


def gfm():
    student, teacher = SwinPlan(8, (1, 2, 1), (1, 2, 4), 4, 64), SwinPlan(16, (1, 1, 2), (1, 2, 4), 7, 112)
    names = {"width": "embed_dim", "heads": "num_heads", "window": "window_size", "image": "img_size",
             "patch": "patch_size", "bands": "in_chans", "ratio": "mlp_ratio", "depths": "depths"}  # fmt: skip
    configs = [{v: getattr(p, k) for k, v in names.items()} for p in (student, teacher)]
    config = {**configs[0], "teacher": configs[1], "encoder_stride": 16, "alpha": 0.5}
    return GFMPretraining(student, teacher, 16, 0.5), "gfm", {"reference": "mmendiet/GFM", "config": config}


def olmo(rope, hidden):
    sets = {"sentinel2_l2a": (12,), "sentinel1": (2,)} if hidden else {"sentinel2_l2a": (4, 6, 2), "landsat": (1, 10)}
    plan = OlmoPlan(32, 3, 2, sets, hidden, rope, 48, 1, 4)
    config = {"encoder": {"num_heads": "2", "mlp_ratio": "4.0"}, "decoder": {"num_heads": "4"}}
    return LatentMIM(plan), "olmoearth", {"reference": "olmoearth-pretrain", "config": config, "modalities": sets}


def mpmae():
    plan = MPPlan((1, 2, 1, 1), (8, 8, 16, 24), 16, True, 5, 3)
    own = ConvNeXtV2(plan)
    state = {f"p16.{k}": v for k, v in own.state_dict().items()}
    official = {}
    for key, v in state.items():
        name = key.replace("p16.", "p16.encoder." if not key.startswith(("p16.norm", "p16.head")) else "p16.")
        if v.ndim == 4 and v.shape[0] != 1:
            kernel = v.transpose(2, 3).flatten(2)
            turned = kernel.squeeze(1).T if v.shape[1] == 1 else kernel.permute(2, 1, 0)
            official[name.replace(".weight", ".kernel")] = turned.contiguous()
        else:
            official[name] = v
    config = {"depths": [1, 2, 1, 1], "dims": [8, 8, 16, 24], "in_chans": 5, "num_classes": 3}
    return state, official, "mpmae", {"reference": "MMEarth-train convnextv2", "config": config}


CASES = {"terramind": terra, "divae": divae, "vqvae": vqvae, "satlas": satlas, "satlas-resnet": satlas_resnet,
         "dinov3": dino, "gfm": gfm, "olmoearth-v1": lambda: olmo(False, 0), "olmoearth-v1_1": lambda: olmo(False, 16),
         "olmoearth-v1_2": lambda: olmo(True, 16)}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_adapter_rebuilds_what_made_the_weights(case):
    torch.manual_seed(0)
    module, family, meta = CASES[case]()
    oracle = ORACLES.get(family)
    assert oracle.matches(meta) and sum(o.matches(meta) for _, o in ORACLES) == 1
    state = {k: v.clone() for k, v in module.state_dict().items()}
    twin = oracle.build(meta, copy.deepcopy(state))
    proof = load_state(twin, state, layout=oracle.layout(meta))
    assert proof.fraction == 1.0 and not proof.recomputed
    plan = getattr(module, "plan", None)
    if plan is not None and case not in ("satlas", "satlas-resnet"):
        assert twin.plan == (replace(plan, day_scale=1.0) if case.startswith("olmo") else plan)


def test_a_tube_of_frames_runs():
    """A model whose tubes span two frames has no answer for one frame, and every other one."""
    shape = {"img_size": 16, "num_frames": 4, "patch_size": [2, 8, 8], "in_chans": 3, "embed_dim": 24, "depth": 2,
             "num_heads": 3, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "mlp_ratio": 2,
             "coords_encoding": ["location"]}  # fmt: skip
    meta = {"reference": "terratorch PrithviMAE", "config": shape}
    oracle = ORACLES.get("prithvi")
    module = oracle.build(meta, {"decoder.x": torch.zeros(1)}).eval()
    inputs = {"x": torch.randn(2, 3, 4, 16, 16), "location_coords": torch.zeros(2, 2), "noise": torch.rand(2, 8)}
    out = oracle.run(module, meta, inputs)
    assert out["features.1"].shape == (2, 9, 24) and out["mae.pred"].shape == inputs["x"].shape
    assert "single_frame.features_last" not in out


def test_minkowski_kernels_turn_back():
    own, official, family, meta = mpmae()
    oracle = ORACLES.get(family)
    twin = oracle.build(meta, official)
    proof = load_state(twin, official, layout=oracle.layout(meta))
    assert proof.fraction == 1.0 and any("columns first" in v for v in proof.reshaped.values())
    for key, value in twin.state_dict().items():
        assert torch.equal(value, own[key]), key
