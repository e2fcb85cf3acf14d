"""Regions: Faster R-CNN (arXiv:1506.01497) and the masks of Mask R-CNN (arXiv:1703.06870) on a pyramid of ours.

A thin adapter: proposals, matching, sampling, box coding and suppression are torchvision's. What is read from maps and
put back on pixels is ours, for objects here may be six pixels wide: torchvision's pooling has a cell's value at the
cell's corner (half a cell is two pixels), its targets of masks have a pixel's at the pixel's corner, and its masks come
back on a box that is a pixel larger. Here a value stands in the middle of its cell everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align

CELLS = 8.0
"""A box is read from the finest level on which it is at most so many cells wide, so that a sample a bin is enough."""
BOX, MASK, DRAWN = 7, 14, 28
"""Cells of a box's features and of a mask's, and of the mask that is drawn."""
AT_ONCE = 16


class Anchors(nn.Module):
    """Anchors about the centres of cells: half an octave between sizes, three shapes. (torchvision's own stand on
    cells' corners, and guess strides from shapes.)"""

    shapes = (0.5, 1.0, 2.0)

    def __init__(self, strides: Sequence[float]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def num_anchors_per_location(self) -> list[int]:
        return [2 * len(self.shapes)] * len(self.strides)

    def forward(self, images: Any, maps: list[Tensor]) -> list[Tensor]:
        every: list[Tensor] = []
        for x, stride in zip(maps, self.strides, strict=True):
            sides = [(2.0 * stride * 2.0**o * r**-0.5, 2.0 * stride * 2.0**o * r**0.5)
                     for r in self.shapes for o in (0.0, 0.5)]  # fmt: skip
            half = x.new_tensor(sides) / 2
            base = torch.cat([-half, half], 1)
            cy, cx = (((torch.arange(n, device=x.device) + 0.5) * stride).to(x.dtype) for n in x.shape[-2:])
            y, z = torch.meshgrid(cy, cx, indexing="ij")
            centres = torch.stack([z, y, z, y], -1).view(-1, 1, 4)
            every.append((centres + base).view(-1, 4))
        return [torch.cat(every)] * len(images.image_sizes)


def proposals(strides: Sequence[float], width: int) -> nn.Module:
    """The network that proposes boxes."""
    anchors: Any = Anchors(strides)
    head = RPNHead(width, anchors.num_anchors_per_location()[0])
    counts = {"training": 1000, "testing": 500}, {"training": 500, "testing": 300}
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, counts[0], counts[1], 0.7)


def pooled(maps: Sequence[Tensor], boxes: Sequence[Tensor], strides: Sequence[float], size: int) -> Tensor:
    """Features (N, C, size, size) of boxes (a list a sample), each from the level that fits its width."""
    flat = torch.cat(list(boxes)).float()
    sample = torch.cat([flat.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
    side = (flat[:, 2:] - flat[:, :2]).clamp_min(1e-3).prod(1).sqrt()
    bounds = torch.tensor([CELLS * s for s in strides[:-1]], device=flat.device, dtype=flat.dtype)
    level = torch.bucketize(side, bounds)
    rois = torch.cat([sample, flat], 1)
    out = flat.new_zeros(len(flat), maps[0].shape[1], size, size)
    for i, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        here = (level == i).nonzero().flatten()
        if len(here):
            found = roi_align(x.float(), rois[here], (size, size), 1.0 / stride, 1, aligned=True)  # places bear no bf16
            out = out.index_put((here,), found)
    return out


class Regions(RoIHeads):
    """Box head and mask head on pooled features; matching and choice of boxes are torchvision's."""

    def __init__(
        self, strides: Sequence[float], width: int, classes: int, kept: tuple[float, float, int], masks: bool
    ) -> None:
        score, overlap, most = kept
        super().__init__(
            None, TwoMLPHead(width * BOX**2, 2 * width), FastRCNNPredictor(2 * width, classes),
            0.5, 0.5, 128, 0.25, None, score, overlap, most,
        )  # fmt: skip
        self.strides, self.drawing = tuple(strides), masks
        if masks:
            self.mask_head = MaskRCNNHeads(width, (width // 2, width // 2), 1)
            self.mask_predictor = MaskRCNNPredictor(width // 2, width // 2, classes)

    def forward(
        self, features: Mapping[str, Tensor], proposals: Any, image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        maps = list(features.values())
        if targets is not None:
            return [], self._losses(maps, proposals, targets)
        boxes, scores, labels = self.postprocess_detections(*self._boxes(maps, proposals), proposals, image_shapes)
        found = [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(boxes, scores, labels, strict=True)]
        if self.drawing:
            drawn = self._masks(maps, boxes, torch.cat(labels)).sigmoid().split([len(b) for b in boxes])
            found = [{**f, "masks": m} for f, m in zip(found, drawn, strict=True)]
        return found, {}

    def _boxes(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(pooled(maps, boxes, self.strides, BOX)))

    def _masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits (N, DRAWN, DRAWN) of each box's own class."""
        if not len(labels):
            return maps[0].new_zeros(0, DRAWN, DRAWN)
        x = torch.cat([
            self.mask_predictor(self.mask_head(part)) for part in pooled(maps, boxes, self.strides, MASK).split(256)
        ])  # fmt: skip
        return x[torch.arange(len(x), device=x.device), labels]

    def _losses(self, maps: Sequence[Tensor], proposals: Any, targets: Any) -> dict[str, Tensor]:
        chosen, matched, labels, wanted = self.select_training_samples(proposals, targets)
        kinds, corners = fastrcnn_loss(*self._boxes(maps, chosen), labels, wanted)
        losses = {"loss_classifier": kinds, "loss_box_reg": corners}
        if not self.drawing:
            return losses
        inside = [(k > 0).nonzero().flatten() for k in labels]
        boxes = [b[i] for b, i in zip(chosen, inside, strict=True)]
        said = self._masks(maps, boxes, torch.cat([k[i] for k, i in zip(labels, inside, strict=True)]))
        truth = torch.cat([
            cut(t["masks"], b, m[i]) for t, b, m, i in zip(targets, boxes, matched, inside, strict=True)
        ])  # fmt: skip
        mask = F.binary_cross_entropy_with_logits(said, truth) if len(truth) else said.sum() * 0.0
        return {**losses, "loss_mask": mask}


def cut(masks: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    """The masks (K, H, W) that boxes (N, 4) are matched with, cut out and sampled: (N, DRAWN, DRAWN)."""
    if not len(boxes):
        return boxes.new_zeros(0, DRAWN, DRAWN)
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], 1)
    return roi_align(masks[:, None].to(boxes.dtype), rois, (DRAWN, DRAWN), 1.0, 1, aligned=True)[:, 0]


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (N, h, w) of boxes laid on pixels: bool (N, *size), by what a mask says at each pixel's centre."""
    found = [boxes.new_zeros(0, *size, dtype=torch.bool)]
    for part, box in zip(masks.split(AT_ONCE), boxes.split(AT_ONCE), strict=True):
        y, x = (
            ((torch.arange(n, device=box.device) + 0.5 - box[:, i, None]) / (box[:, i + 2] - box[:, i])[:, None]) * 2
            - 1
            for n, i in zip(size, (1, 0), strict=True)
        )
        grid = torch.stack([x[:, None].expand(-1, *size), y[:, :, None].expand(-1, *size)], -1)
        inside = (grid.abs() <= 1).all(-1)
        told = F.grid_sample(part[:, None].float(), grid, padding_mode="border", align_corners=False)[:, 0]
        found.append((told > 0.5) & inside)
    return torch.cat(found)
