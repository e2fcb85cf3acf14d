"""Model cards: what an encoder is, what it takes, what its weights are and whether it was proven equal.

Everything on a card is read from the encoder's spec, the weights records and the parity list; nothing is typed in.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from swath.core import EncoderSpec, Input
from swath.models import ENCODERS, encoder_config


def model_card(name: str) -> str:
    """A Markdown card for `family`, `family/size` or a weights record."""
    record = None if name.partition("/")[0] in ENCODERS else _record(name)
    config = encoder_config(name if record is None else str(record.encoder))
    with torch.device("meta"):
        encoder = config.build()
    spec = encoder.spec
    count = sum(p.numel() for p in encoder.parameters())
    rows = [
        f"# {name}",
        "",
        (type(config).__doc__ or "").strip(),
        "",
        f"- Encoder: `{config.kind}`, size `{config.size}`, {count / 1e6:.1f} M parameters (encoder as built)",
        f"- Licence of the published weights: {spec.licence}",
        f"- Patch {spec.patch}, depth {spec.depth}, pooled width {spec.pooled}",
        f"- Levels: widths {list(spec.widths)}, strides {list(spec.strides)}",
        f"- Time: {'native' if spec.native_time else 'each timestep alone, mean over valid timesteps'}",
        f"- Parity: {_parity(config.kind)}",
        "",
        "## Inputs",
        "",
        *_inputs(spec),
    ]
    records = [record] if record is not None else _records_for(config.kind)
    for each in records:
        rows += ["", f"## Weights `{each.name}`", "", *_facts(each)]
    return "\n".join(rows)


def _inputs(spec: EncoderSpec) -> list[str]:
    rows = [_input(i) for i in spec.inputs]
    if spec.any_bands:
        rows.append("- any sensor whose bands have wavelengths and statistics")
    return rows


def _input(want: Input) -> str:
    text = f"- {want.sensor}: {', '.join(want.bands)}; {want.unit}"
    text += f" x {want.gain:g}" if want.gain != 1 else ""
    text += f" + {want.bias:g}" if want.bias else ""
    if want.mean:
        text += f"; mean {[round(m, 4) for m in want.mean]}, std {[round(s, 4) for s in want.std]}"
    return text + ("; required" if want.required else "")


def _parity(kind: str) -> str:
    from swath.models.oracle import ORACLES

    if kind not in ORACLES:
        return "no reference fixture"
    full = ORACLES.get(kind).full
    return f"tested against the reference's fixture; {len(full)} full-size key lists"


def _records_for(kind: str) -> list[Any]:
    if find_spec("swath.models.weights") is None:
        return []
    weights = import_module("swath.models.weights").WEIGHTS
    return [r for _, r in weights if str(r.encoder).partition("/")[0] == kind]


def _record(name: str) -> Any:
    if find_spec("swath.models.weights") is None:
        return None
    return import_module("swath.models.weights").WEIGHTS.get(name)


def _facts(record: Any) -> list[str]:
    from swath.core.config import plain

    return [f"- {k}: {v}" for k, v in plain(record).items() if v not in (None, "", [], {}) and k != "name"]
