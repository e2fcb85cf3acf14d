"""Encoders and their weights. `build_encoder("prithvi/v2-300")` gives an `nn.Module` that meets `core.Encoder`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from swath.core import Family, UnknownName
from swath.core.config import parse_member

if TYPE_CHECKING:
    from swath.models.encoder import EncoderModule
    from swath.models.inputs import Adaptation
    from swath.models.loading import Layout


class EncoderConfig(Protocol):
    """A frozen dataclass: `size` names one of `sizes`, `build()` makes the module, `layout()` reads official files."""

    kind: ClassVar[str]
    sizes: ClassVar[Mapping[str, Any]]

    @property
    def size(self) -> str: ...

    def build(self) -> EncoderModule: ...

    def layout(self) -> Layout: ...


ENCODERS: Family[type[EncoderConfig]] = Family("encoder", "swath.models.encoders")


def encoder_config(config: EncoderConfig | Mapping[str, Any] | str) -> EncoderConfig:
    """A config, its plain form `{kind: ..., ...}`, or a name such as `croma` or `croma/large`."""
    if isinstance(config, str):
        kind, _, size = config.partition("/")
        member = ENCODERS.get(kind)
        if size and size not in member.sizes:
            raise UnknownName(f"size of {kind}", size, member.sizes)
        config = {"kind": kind, "size": size} if size else {"kind": kind}
    return parse_member(config, ENCODERS, where="encoder")


def build_encoder(
    config: EncoderConfig | Mapping[str, Any] | str,
    *,
    weights: str | Path | None = None,
    adaptation: Adaptation | None = None,
    exceptions: Sequence[str] = (),
) -> EncoderModule:
    """An encoder, with weights when given: a file, or the name of a weights record. The proof is `encoder.proof`."""
    from swath.models.layers.undrawn import undrawn
    from swath.models.loading import load_weights

    cfg = encoder_config(config)
    every = weights is not None and not exceptions and not cfg.layout().absent  # loading sets every parameter
    with undrawn() if every else nullcontext():
        encoder = cfg.build()
    if adaptation is not None:
        encoder.adaptation = adaptation
    if weights is not None:
        path, sha256 = _locate(weights)
        encoder.proof = load_weights(encoder, path, layout=cfg.layout(), exceptions=exceptions, sha256=sha256)
    return encoder


def _locate(weights: str | Path) -> tuple[Path, str]:
    """A local file as it is; otherwise the file of the record of that name."""
    path = Path(weights)
    if path.exists() or path.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin"):
        return path, ""
    from importlib import import_module

    return import_module("swath.models.weights").fetch_record(str(weights))


__all__ = ["ENCODERS", "EncoderConfig", "build_encoder", "encoder_config"]
