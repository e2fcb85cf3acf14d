"""The kinds of label, in a place that costs no torch: cards name them, `swath.core.batch.Label` fixes their shapes."""

from __future__ import annotations

from typing import Literal

LabelKind = Literal["class", "tags", "mask", "map", "scalar", "boxes", "image"]
