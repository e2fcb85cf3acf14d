"""`swath embed`: vectors of places, and the search among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup


class _RunUnlessNamed(TyperGroup):
    """`swath embed ENCODER SCENE` is `swath embed run ENCODER SCENE`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        named = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return super().parse_args(ctx, args if named else ["run", *args])


app = typer.Typer(help="Vectors of places, and the search among them.", no_args_is_help=True, cls=_RunUnlessNamed)
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


@app.command()
def run(
    encoder: Annotated[str, typer.Argument(help="An encoder, such as swath-vit/tiny.")],
    scene: Annotated[list[str], typer.Argument(help="A raster, several, a folder or a VRT.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    weights: Annotated[str, typer.Option(help="A weights file or the name of a record.")] = "",
    per: Annotated[str, typer.Option(help="chip, patch or polygon.")] = "chip",
    polygons: Annotated[Path | None, typer.Option("--polygons", help="Vector file, for --per polygon.")] = None,
    cog: Annotated[bool, typer.Option("--cog", help="Also the vectors as bands of a COG.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Store unit vectors as int8.")] = False,
    chip: Annotated[int, typer.Option(help="Side of a chip; 0: as the encoder suggests.")] = 0,
    halo: Annotated[int, typer.Option(help="Pixels of context around a chip.")] = 0,
    level: Annotated[int, typer.Option(help="Level of the features, for patches and polygons.")] = -1,
    batch: Annotated[int, typer.Option(help="Chips per forward.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    sensor: Annotated[str, typer.Option(help="What the rasters are, if they do not say.")] = "",
    bands: Annotated[str, typer.Option(help="Their bands in file order, comma-separated.")] = "",
    as_json: Json = False,
) -> None:
    """Embed a scene; after any interruption the same command goes on."""
    from swath.cli.output import answer, note
    from swath.core import config
    from swath.data.scene import SceneHints, open_scene
    from swath.deploy.embed import EmbedPlan, EmbedSettings, pixels_of, weights_digest
    from swath.deploy.embed_files import embed_scene
    from swath.models import build_encoder

    values = {"per": per, "chip": chip, "halo": halo, "level": level, "batch": batch, "precision": precision}
    settings = config.parse({**values, "device": device, "int8": int8}, EmbedSettings, where="embed")
    hints = SceneHints(sensor, tuple(b for b in bands.split(",") if b))
    ground = open_scene(scene[0] if len(scene) == 1 else scene, None, hints)
    model = build_encoder(encoder, weights=weights or None).eval().to(device)
    shapes = pixels_of(ground.grid, polygons) if polygons is not None else []
    plan = EmbedPlan.of(ground, model, weights_digest(model), settings, shapes)
    done = embed_scene(plan, ground, model, out, cog=cog, tell=lambda n, of: note(f"{n}/{of} cells"))
    answer({k: v for k, v in done.items() if k not in ("grid", "settings")}, as_json)


@app.command()
def search(
    embeddings: Annotated[Path, typer.Argument(help="embeddings.parquet, or its folder.")],
    point: Annotated[str, typer.Option(help="Longitude,latitude.")] = "",
    key: Annotated[int | None, typer.Option(help="Key of a row.")] = None,
    polygon: Annotated[Path | None, typer.Option("--polygon", help="Vector file: the mean of what it meets.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Look at every vector.")] = False,
    as_json: Json = False,
) -> None:
    """The places most similar to a point, a row or a polygon."""
    from swath.cli.output import answer
    from swath.deploy.search import place_from, similar

    file = embeddings / "embeddings.parquet" if embeddings.is_dir() else embeddings
    answer(similar(file, place_from(point, key, polygon), k, exact=exact), as_json)
