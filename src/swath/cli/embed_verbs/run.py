"""`swath embed run ENCODER SCENE`: vectors of chips, patches or polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    encoder: Annotated[str, typer.Argument(help="An encoder, such as swath-vit/tiny.")],
    scene: Annotated[list[str], typer.Argument(help="Rasters, a folder, or a STAC item or catalogue.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    weights: Annotated[str, typer.Option(help="A weights file or the name of a record.")] = "",
    per: Annotated[str, typer.Option(help="chip, patch or polygon.")] = "chip",
    polygons: Annotated[Path | None, typer.Option("--polygons", help="Vector file, for --per polygon.")] = None,
    cog: Annotated[bool, typer.Option("--cog", help="Also the vectors as bands of a COG.")] = False,
    lance: Annotated[bool, typer.Option("--lance", help="Also a Lance table with a vector index.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Store unit vectors as int8.")] = False,
    chip: Annotated[int, typer.Option(help="Side of a chip; 0: as the encoder suggests.")] = 0,
    halo: Annotated[int, typer.Option(help="Pixels of context around a chip.")] = 0,
    level: Annotated[int, typer.Option(help="Level of the features, for patches and polygons.")] = -1,
    batch: Annotated[int, typer.Option(help="Chips per forward.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    sensor: Annotated[str, typer.Option(help="What the rasters are, if they do not say.")] = "",
    aoi: Annotated[str, typer.Option(help="West,south,east,north in degrees, or a vector file.")] = "",
    dates: Annotated[str, typer.Option(help="A span 2024-05-01/2024-08-31, or days, all needed.")] = "",
    collection: Annotated[str, typer.Option(help="Collection of a STAC catalogue.")] = "",
    mask: Annotated[str, typer.Option(help="Hide a STAC item's clouds by scl or fmask.")] = "",
    bands: Annotated[str, typer.Option(help="Their bands in file order, comma-separated.")] = "",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="A key of encoder or adaptation: encoder.sensor=landsat8-sr.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Embed a scene; after any interruption the same command goes on."""
    import torch

    from swath.cli.output import answer, note
    from swath.core import config
    from swath.core.device import usable
    from swath.data.scene import SceneHints
    from swath.deploy.embed import EmbedPlan, EmbedSettings, Encoding, pixels_of, weights_digest
    from swath.deploy.embed_files import embed_scene
    from swath.deploy.inputs import OpenInputs, Wanted
    from swath.models import build_encoder, encoder_config

    values = {"per": per, "chip": chip, "halo": halo, "level": level, "batch": batch, "precision": precision}
    settings = config.parse({**values, "device": device, "int8": int8}, EmbedSettings, where="embed")
    hints = SceneHints(sensor, tuple(b for b in bands.split(",") if b))
    ground = OpenInputs(tuple(scene), hints, wanted=Wanted(aoi, dates, collection, mask=mask))()
    own = config.override({"encoder": config.plain(encoder_config(encoder))}, sets or [])
    how = config.parse(own, Encoding, where="--set")
    torch.manual_seed(0)  # weights that nobody gave are the same again when the command goes on
    model = build_encoder(how.encoder, weights=weights or None, adaptation=how.adaptation).eval().to(usable(device))
    if not weights and any(p.requires_grad for p in model.parameters()):
        note(f"note: no --weights: {model.spec.name} has random ones, so its vectors know little")
    shapes = pixels_of(ground.grid, polygons) if polygons is not None else []
    plan = EmbedPlan.of(ground, model, weights_digest(model), settings, shapes)
    done = embed_scene(
        plan,
        ground,
        model,
        out,
        also=[n for n, on in (("cog", cog), ("lance", lance)) if on],
        tell=lambda n, of: note(f"{n}/{of} cells"),
    )
    if lost := done.get("polygons left out"):
        note(f"note: {lost} of {len(shapes)} polygons meet no pixel that was seen, and have no vector")
    answer({k: v for k, v in done.items() if k not in ("grid", "settings")}, as_json)
