"""A pack written by `swath data pack`, at a path or an address (`https://`, `s3://`, ...)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from swath.core.contracts import Source


@dataclass(frozen=True)
class PackedConfig:
    """`path` is the pack's folder or address. A corrupt chunk stops the run unless `on_corrupt` says skip."""

    kind: ClassVar[str] = "packed"
    path: str
    verify: Literal["once", "always", "never"] = "once"
    on_corrupt: Literal["error", "skip"] = "error"

    def build(self) -> Source:
        from swath.data.streams.packed import PackedSource

        return PackedSource(self.path, verify=self.verify, on_corrupt=self.on_corrupt)


MEMBER = PackedConfig
