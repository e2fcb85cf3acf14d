"""A tiny config of every objective and the batches it takes."""

from tiny_tokens import S1, S2, Tiny, make_batch

from swath.core.config import parse_member
from swath.objectives import OBJECTIVES, Kit

DECODER = {"width": 24, "depth": 1, "heads": 2}
CASES = {
    "mae": (DECODER, {}),
    "moco": ({"hidden": 16, "dim": 8, "queue": 12}, {"sensors": (S2,)}),
    "latent-mim": ({"width": 16, "depth": 1, "heads": 2, "dim": 12}, {}),
    "simmim": ({}, {}),
    "inpaint": ({"side": 4}, {}),
    "distill": ({"mask": "random"}, {}),
    "sum": ({"parts": [{"kind": "simmim"}, {"kind": "distill", "mask": "random"}], "weights": [1.0, 0.5]}, {}),
    "fgmae": (DECODER, {}),
    "data2vec": ({"top": 2, "mask": {"kind": "blocks", "smallest": 2}}, {}),
    "dino": ({"prototypes": 24, "hidden": 16, "bottleneck": 8, "local": 2}, {"sensors": (S2,)}),
    "seco": ({"dim": 8, "queue": 20}, {"sensors": (S2,), "t": 3}),
    "triplet": ({"margin": 1.0}, {"sensors": (S2,)}),
    "decur": ({"dim": 16, "common": 12}, {}),
    "croma": ({**DECODER, "dim": 8}, {}),
    "mpmae": (
        {"width": 16, "heads": 2, "labels": {"cover": 3, "kind": 3, "yield": 0}, "weighting": "uncertainty"},
        {"labels": True},
    ),
    "supervised": (
        {
            "width": 16,
            "heads": {
                "cover": {"type": "segmentation", "classes": 3},
                "height": {"type": "regression"},
                "road": {"type": "polylines"},
                "kind": {"type": "classification", "classes": 3},
                "tags": {"type": "classification", "classes": 2},
                "yield": {"type": "regression"},
                "things": {"type": "polygons", "classes": 2},
            },
        },
        {"labels": True},
    ),
    "multimae": ({"width": 16, "depth": 1, "heads": 2}, {}),
}


def make(name, **more):
    """The module of an objective around a tiny encoder, and the keywords of its batches."""
    import torch

    given, how = CASES[name]
    sensors = how.get("sensors", (S2, S1))
    encoder = Tiny(sensors)
    torch.manual_seed(11)
    config = parse_member({"kind": name, **given, **more}, OBJECTIVES)
    teacher = Tiny(sensors, width=16, seed=9) if name in ("distill", "sum") else None
    return config.build(Kit(encoder, make_batch(1, **how), teacher)), how


def learn(module, batch, steps, lr):
    """The losses of a short training on one batch."""
    import torch

    from swath.core import generator

    optimizer, losses = torch.optim.AdamW(module.parameters(), lr), []
    for i in range(steps):
        step = module(batch, generator(i))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.loss.detach()))
    return losses
