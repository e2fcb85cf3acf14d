"""FG-MAE: a masked autoencoder that predicts edges and spectral indices instead of pixels.

Targets of a hidden token: histograms of oriented gradients of every band (4 cells of half a patch, 9 bins), and for
optical sensors the maps of vegetation, water and built-up indices; two heads, their losses added token by token.
Radar: HOG only, which forgives speckle. https://arxiv.org/abs/2310.18653
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, Tokens, UserError
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, masked, token_width, tokenize
from swath.objectives.losses.pixels import Sum, weigh
from swath.objectives.masks import MASKS, Mask
from swath.objectives.masks.random import Random
from swath.objectives.predictors import Decoder
from swath.objectives.targets.features import hog, indices
from swath.objectives.targets.pixels import Patches, cut, patches, pictures_of, standard


@dataclass(frozen=True)
class FGMAE:
    """`norm`: targets with each token's mean and variance removed."""

    kind: ClassVar[str] = "fgmae"
    mask: Annotated[Mask, MASKS] = field(default_factory=lambda: Random(0.7))
    width: int = 512
    depth: int = 8
    heads: int = 16
    norm: bool = True

    def build(self, kit: Kit) -> FeatureGuided:
        return FeatureGuided(self, kit)


class FeatureGuided(ObjectiveModule):
    """The module of `FGMAE`."""

    def __init__(self, config: FGMAE, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        self.decoder = Decoder(token_width(kit.encoder), config.width, config.depth, config.heads)
        with torch.no_grad():
            tokens = tokenize(kit.encoder, kit.example)
            found = self.targets(kit.example, tokens)
        self.outs = nn.ModuleDict(
            {k.replace(".", "_"): nn.Linear(config.width, t.shape[2]) for k, (_, t) in found.items()}
        )

    def targets(self, batch: Batch, tokens: Tokens) -> dict[str, tuple[Patches, Tensor]]:
        """`sensor/hog` and `sensor/index` -> its tokens and their features (B, n, F)."""
        out: dict[str, tuple[Patches, Tensor]] = {}
        for s, (name, part) in enumerate(patches(batch, tokens).items()):
            if part.classes:
                continue
            layer, (tub, ph, pw) = batch.layers[name], part.size
            b, t, _, h, w = layer.shape
            rows, cols = tokens.grids[s]
            if ph != pw or ph % 2 or (h, w) != (rows * ph, cols * pw):
                raise UserError(
                    f"HOG needs whole patches of an even side; {name} has {h} x {w} in {rows} x {cols} patches",
                    where="objective fgmae",
                )
            place = tokens.place[part.index]
            at = (place[:, 2] * rows + place[:, 3]) * cols + place[:, 4]
            grid = (t // tub, rows, cols)
            cells = hog(standard(layer).flatten(0, 1), ph // 2).unflatten(0, (b, t))
            out[f"{name}/hog"] = (part, cut(cells, (tub, 2, 2), grid)[:, at].flatten(2))
            maps = indices(layer)
            if maps is not None:
                out[f"{name}/index"] = (part, cut(maps, part.size, grid)[:, at].flatten(2))
        return out

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The maps of the three indices; gradients make no picture."""
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        x = self.decoder(encode(self.encoder, plan.padded(tokens), plan.keep), plan, batch, tokens)
        made: dict[str, tuple[Patches, Tensor]] = {}
        for key, (part, want) in self.targets(batch, tokens).items():
            if key.endswith("/index"):
                shape = (-1, part.value.shape[3])
                pred = self.outs[key.replace(".", "_")](x[:, part.index]).unflatten(-1, shape)
                made[key] = (replace(part, value=want.unflatten(-1, shape)), pred)
        return pictures_of(made, plan.visible, tokens, self.config.norm)

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        x = self.decoder(encode(self.encoder, plan.padded(tokens), plan.keep), plan, batch, tokens)
        sums: dict[str, dict[str, Sum]] = {"hog": {}, "index": {}}
        for key, (part, want) in self.targets(batch, tokens).items():
            if self.config.norm:
                want = (want - want.mean(-1, keepdim=True)) / (want.var(-1, keepdim=True) + 1e-6).sqrt()
            pred = self.outs[key.replace(".", "_")](x[:, part.index]).float()
            hidden = (plan.target[:, part.index] & part.valid.any(-1).any(-1)).float()
            each = (pred - want).square().mean(-1)
            sums[key.split("/")[1]][key] = Sum((each * hidden).sum(), float(hidden.sum()))
        found = {k: weigh(v) for k, v in sums.items() if v}
        count = found["hog"][1]
        loss = torch.stack([mean * n for mean, n in found.values()]).sum() / max(count, 1.0)
        return Step(loss, {k: mean for k, (mean, _) in found.items()}, count)


MEMBER = FGMAE
