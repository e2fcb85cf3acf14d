"""A tiny config of every objective and the batches it takes."""

from tiny_tokens import S1, S2, Tiny, make_batch

from swath.core.config import parse_member
from swath.objectives import OBJECTIVES, Kit

DECODER = {"width": 24, "depth": 1, "heads": 2}
CASES = {
    "mae": (DECODER, {}),
    "moco": ({"hidden": 16, "dim": 8, "queue": 12}, {"sensors": (S2,)}),
    "latent-mim": ({"width": 16, "depth": 1, "heads": 2, "dim": 12}, {}),
}


def make(name, **more):
    """The module of an objective around a tiny encoder, and the keywords of its batches."""
    import torch

    given, how = CASES[name]
    sensors = how.get("sensors", (S2, S1))
    encoder = Tiny(sensors)
    torch.manual_seed(11)
    config = parse_member({"kind": name, **given, **more}, OBJECTIVES)
    teacher = Tiny(sensors, width=16, seed=9) if name == "distill" else None
    return config.build(Kit(encoder, make_batch(1, **how), teacher)), how
