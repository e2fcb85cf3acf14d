"""`swath map`: a tuned model over any scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[str, typer.Argument(help="A bundle folder or .swath file.")],
    scene: Annotated[list[str], typer.Argument(help="Rasters, a folder, or a STAC item or catalogue.")],
    out: Annotated[Path, typer.Option("--out", help="The map, a GeoTIFF; objects: .parquet, .gpkg, .fgb.")],
    proba: Annotated[bool, typer.Option("--proba", help="Also the probability of every class.")] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="Also the entropy, 0 to 1.")] = False,
    sets: Annotated[bool, typer.Option("--sets", help="Also the size of the conformal set.")] = False,
    strangeness: Annotated[bool, typer.Option("--strangeness", help="Also the distance from training.")] = False,
    vectors: Annotated[Path | None, typer.Option("--vectors", help="Polygons: .parquet, .gpkg, .fgb.")] = None,
    min_area: Annotated[float, typer.Option("--min-area", help="Smallest polygon, square metres.")] = 0.0,
    simplify: Annotated[float, typer.Option("--simplify", help="Tolerance of outlines, crs units.")] = 0.0,
    tile: Annotated[int, typer.Option(help="Side of a tile; 0: as the model advises.")] = 0,
    overlap: Annotated[int | None, typer.Option(help="Pixels that tiles share at least.")] = None,
    batch: Annotated[int, typer.Option(help="Tiles per forward; 0: as suits the device.")] = 0,
    cell: Annotated[int, typer.Option(help="Side of a unit of work, pixels.")] = 1024,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    int8: Annotated[str, typer.Option(help="A graph of swath map-int8, in place of the bundle's own.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of a worker.")] = 1,
    shard: Annotated[str, typer.Option(help="Do part i/n only; the last part assembles.")] = "",
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Address of a Ray cluster.")] = "",
    allow_holes: Annotated[
        bool, typer.Option("--allow-holes", help="Nodata where reading fails or a day is missing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say tiles, memory, time and disk.")] = False,
    sensor: Annotated[str, typer.Option(help="What the rasters are, if they do not say.")] = "",
    bands: Annotated[str, typer.Option(help="Their bands in file order, comma-separated.")] = "",
    card: Annotated[str, typer.Option(help="A card that says what the rasters are.")] = "",
    aoi: Annotated[str, typer.Option(help="West,south,east,north in degrees, or a vector file.")] = "",
    dates: Annotated[str, typer.Option(help="A span 2024-05-01/2024-08-31, or days, all needed.")] = "",
    collection: Annotated[str, typer.Option(help="Collection of a STAC catalogue.")] = "",
    cloud: Annotated[float | None, typer.Option(help="Most clouds of a STAC item, percent.")] = None,
    mask: Annotated[str, typer.Option(help="Hide a STAC item's clouds by scl or fmask.")] = "",
    warp: Annotated[bool, typer.Option("--warp", help="Reproject rasters of another crs or lattice.")] = False,
    base: Annotated[str, typer.Option(help="The base weights, if the bundle is a delta of unknown base.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Map a scene. After any interruption the same command goes on and gives the same bits."""
    from dataclasses import replace

    from swath.cli.output import answer, note
    from swath.core.heap import importing

    with importing():
        from swath.core import config
        from swath.data.scene import SceneHints
        from swath.deploy.bundles import OpenBundle
        from swath.deploy.inputs import OpenInputs, Wanted
        from swath.deploy.map import MapRun, estimate, map_scene
        from swath.deploy.plan import MapSettings, Plan, Shaping

    hints = SceneHints(sensor, tuple(b for b in bands.split(",") if b), warp=warp)
    wanted = Wanted(aoi, dates, collection, cloud, mask, holes=allow_holes)
    inputs, model = OpenInputs(tuple(scene), hints, card, wanted), OpenBundle(bundle, device, strangeness, base, int8)
    values = {"tile": tile, "overlap": overlap, "batch": batch, "cell": cell, "precision": precision}
    layers = {"proba": proba, "entropy": entropy, "sets": sets}
    settings = config.parse({**values, **layers, "device": device, "threads": threads}, MapSettings, where="map")
    if dry_run:
        ground, predictor = inputs(), model()
        answer(estimate(Plan.of(ground, predictor.spec, settings), ground, predictor, workers), as_json)
        return
    how = config.parse({"workers": workers, "shard": shard, "engine": engine, "address": address}, MapRun, where="map")
    how = replace(how, allow_holes=allow_holes, vectors=vectors, shaping=Shaping(min_area, simplify))
    done = map_scene(
        inputs, model, out, settings=settings, run=how, sources=scene, tell=lambda progress: note(progress.words)
    )
    answer(done.facts(), as_json)
