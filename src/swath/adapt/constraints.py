"""Physical constraints: what values must satisfy whatever the data say. Checks in the report, penalties in the loss.

A penalty is the mean of how far a value stands outside, in units of the label's deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.core.batch import Batch
from swath.core.errors import UserError


@dataclass(frozen=True)
class Constraint:
    """One rule: `range` (low..high), `nonnegative`, `sum` (channels add up to `total`) or `monotone`.

    `monotone`: the value never falls (`sign` 1) or never rises (-1) with the band `band` of `sensor`, judged between
    pixels of one sample. `weight` 0 makes it a check only.
    """

    rule: Literal["range", "nonnegative", "sum", "monotone"]
    weight: float = 0.0
    low: float | None = None
    high: float | None = None
    total: float = 1.0
    sensor: str = ""
    band: str = ""
    sign: int = 1
    tolerance: float = 1e-3

    @property
    def name(self) -> str:
        return f"{self.rule}:{self.band}" if self.band else self.rule


def excess(rule: Constraint, values: Tensor, batch: Batch) -> Tensor:
    """How far values (B, K, H, W) or (B,) break the rule, >= 0, in the label's unit."""
    match rule.rule:
        case "nonnegative":
            return F.relu(-values)
        case "range":
            low = F.relu(rule.low - values) if rule.low is not None else torch.zeros_like(values)
            return low + F.relu(values - rule.high) if rule.high is not None else low
        case "sum":
            if values.ndim < 2:
                raise UserError("the rule 'sum' needs several channels", where="task.constraints")
            return (values.sum(1) - rule.total).abs()
        case "monotone":
            return _monotone(rule, values, batch)


def _monotone(rule: Constraint, values: Tensor, batch: Batch) -> Tensor:
    if rule.sensor not in batch.layers or values.ndim != 4:
        raise UserError(f"the rule 'monotone' needs the layer '{rule.sensor}' and a map of values", where="constraints")
    layer = batch.layers[rule.sensor].select([rule.band])
    driver = F.interpolate(layer.x[:, -1], (values.shape[-2], values.shape[-1]), mode="nearest").flatten(1)
    flat = values[:, 0].flatten(1)
    # neighbours in the order of the driver: a rise of the driver must not be a fall of the value
    order = driver.argsort(1)
    steps = torch.gather(flat, 1, order).diff(dim=1)
    apart = torch.gather(driver, 1, order).diff(dim=1) > 0
    return F.relu(-rule.sign * steps) * apart


def penalties(
    rules: Sequence[Constraint], values: Tensor, scale: Tensor, batch: Batch
) -> Iterator[tuple[str, Tensor, float]]:
    """Name, penalty and weight of every rule that weighs something."""
    unit = scale.mean().clamp_min(1e-12)
    for rule in rules:
        if rule.weight > 0:
            yield rule.name, (excess(rule, values, batch) / unit).mean(), rule.weight


def broken(rules: Sequence[Constraint], values: Tensor, batch: Batch) -> dict[str, float]:
    """Share of values that break each rule by more than its tolerance."""
    return {r.name: float((excess(r, values, batch) > r.tolerance).float().mean()) for r in rules}
