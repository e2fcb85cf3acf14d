"""`swath world`: render the simulated Earth to files, or look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The simulated Earth: render chips and scenes, look at places.", no_args_is_help=True)
Seed = Annotated[int, typer.Option("--seed", help="Which planet.")]
Sensors = Annotated[list[str], typer.Option("--sensor", help="A sensor id; repeat for several.")]
Days = Annotated[list[str], typer.Option("--day", "--days", help="A date YYYY-MM-DD; repeat for several.")]
Labels = Annotated[list[str], typer.Option("--label", "--labels", help="A label; repeat for several.")]
Out = Annotated[Path, typer.Option("--out", help="Folder (or picture) to write.")]
Clouds = Annotated[float, typer.Option(help="How cloudy: 0 clear, 1 as on Earth.")]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
YEAR = ["2023-04-10", "2023-06-05", "2023-07-25", "2023-09-20"]


@app.command()
def render(
    out: Out, sensor: Sensors, seed: Seed = 0, chips: int = 16, size: int = 128, gsd: float = 10.0,
    days: Days = YEAR, labels: Labels = ["land_cover"], near: str = "land", clouds: Clouds = 1.0,  # noqa: B006
    workers: int = 1, as_json: Json = False,
) -> None:  # fmt: skip
    """Render chips as GeoTIFFs with labels and STAC items; any number of workers writes the same bytes."""
    from swath.cli.output import answer
    from swath.world.files import Render, under_clouds
    from swath.world.files import render as run

    about = Render(str(out), seed, tuple(sensor), tuple(days), tuple(labels), chips, size, gsd, near, clouds)
    done = sum(1 for _ in run(about, workers))
    told = {"chips": done, "images": done * len(days) * len(sensor), "out": str(out)}
    answer({**told, **under_clouds(out)}, as_json)


@app.command()
def scene(
    out: Out, sensor: Sensors, seed: Seed = 0, lon: float = 10.0, lat: float = 52.0, size: int = 4096,
    days: Days = ["2023-07-25"], labels: Labels = [], clouds: Clouds = 1.0, as_json: Json = False,  # noqa: B006
) -> None:  # fmt: skip
    """Stream one large scene to cloud-optimised GeoTIFFs, block by block."""
    from swath.cli.output import answer
    from swath.world import World
    from swath.world.files import days_of, write_scene

    view = World(seed, clouds=clouds).scene((lon, lat), size, sensor, days_of(days))
    answer([{"file": str(p)} for p in write_scene(view, out, f"scene{seed}", labels)], as_json)


@app.command()
def show(
    out: Out = Path("world.png"), seed: Seed = 0, near: str = "cropland", pick: int = 0,
    lon: float | None = None, lat: float | None = None, clouds: Clouds = 1.0, as_json: Json = False,
) -> None:  # fmt: skip
    """A contact sheet of one place: its year, its labels, every sensor's view (PNG)."""
    from swath.cli.output import answer
    from swath.world import Site, World
    from swath.world.show import contact_sheet

    world = World(seed, clouds=clouds)
    site = Site(lon, lat) if lon is not None and lat is not None else world.sites(pick + 1, near=near)[pick]
    contact_sheet(world, site, out)
    answer({"picture": str(out), "lon": round(site.lon, 5), "lat": round(site.lat, 5)}, as_json)


@app.command()
def sites(near: str = "land", seed: Seed = 0, n: int = 8, region: str | None = None, as_json: Json = False) -> None:
    """Places on the planet, drawn by area: near cropland, forest, city, water, fire, flood, ..."""
    from swath.cli.output import answer
    from swath.world import World

    found = World(seed).sites(n, near=near, region=region)
    answer([{"lon": round(s.lon, 5), "lat": round(s.lat, 5), "day": s.day} for s in found], as_json, "sites")
