"""`swath data pack DATA --out DIR`: any source as sharded, checksummed, band-wise chunks for training at disk speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, card, run file, tortilla or shipped card's name.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="The pack's folder.")] = None,
    path: Annotated[str | None, typer.Option("--path", help="Where a shipped card's data lies.")] = None,
    codec: Annotated[str, typer.Option("--codec", help="lz4hc (fast), zstd (small), lz4, none.")] = "lz4hc",
    per_shard: Annotated[int, typer.Option("--per-shard", help="Samples a shard; 0: about 256 MiB raw.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Processes that write shards.")] = 1,
    verify: Annotated[bool, typer.Option("--verify", help="Check every chunk of a pack instead of writing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Write a pack; a killed one goes on where it stopped. `{kind: packed, path: DIR}` reads it in a run file."""
    from swath.cli.output import answer, note
    from swath.core.errors import UserError
    from swath.data.open import open_source
    from swath.data.streams import PackConfig, PackedSource, pack
    from swath.data.streams.packed import verify as sound

    if verify:
        corrupt = sound(data)
        answer({"pack": data, "corrupt": corrupt}, as_json)
        if corrupt:
            raise SystemExit(2)
        return
    if out is None:
        raise UserError("where should the pack lie?", remedy="swath data pack DATA --out DIR")

    def progress(done: int, total: int) -> None:
        note(f"packed {done} of {total} samples")

    pack(open_source(data, path=path), out, PackConfig(codec, per_shard, workers), progress)
    found = PackedSource(str(out))
    size = sum(p.stat().st_size for p in out.iterdir())
    answer(
        {"pack": str(out), "samples": len(found), "bytes": size, "fingerprint": found.fingerprint[:16],
         "splits": {k: len(v) for k, v in found.splits().items()}}, as_json,
    )  # fmt: skip
