"""The command line: each verb is a thin shell over a public function with the same words.

Exit codes: 0 done, 1 finished with failures listed, 2 bad input. With ``--json`` stdout holds one
JSON object and nothing else; progress always goes to stderr.

Longer than the budget because the help of every option stands here, beside the option.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ecomap.errors import NO_ROOM, EcomapError, RequestError
from ecomap.schema import CLIMATE, LandCover

EXIT_FAILURES, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


class Door(TyperGroup):
    """Turns errors that a user can mend into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except EcomapError as error:
            self._leave(f"error: {error}", EXIT_BAD_INPUT)
        except OSError as error:
            if error.filename is None and error.errno not in NO_ROOM:
                raise
            where = error.filename or "the output folder"
            hint = " Free space; the same command goes on." if error.errno in NO_ROOM else ""
            self._leave(f"error: {where} cannot be used: {error.strerror}.{hint}", EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            message = (
                "interrupted. The same command goes on with a training, a sequence, an import or a "
                "preparation where it stopped; images and pages are made again."
            )
            self._leave(message, EXIT_INTERRUPTED)

    @staticmethod
    def _leave(message: str, code: int) -> None:
        typer.echo(message, err=True)
        raise typer.Exit(code)


def _group(text: str, **settings: Any) -> typer.Typer:
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


app = _group(
    "Satellite images of places under a climate: prepare data, train, generate.",
    cls=Door,
    pretty_exceptions_enable=False,
    epilog="Start with: ecomap demo --output runs/demo",
)
data = _group("Make datasets from folders of imagery, look at them, divide them.")
imports = _group("Make a dataset folder from a source of imagery.")
prep = _group("Prepare a dataset: from a region and months to satellite tiles with climate.")
model = _group("Find, inspect, merge and convert models.")
app.add_typer(prep, name="prep")
app.add_typer(data, name="data")
data.add_typer(imports, name="import")
app.add_typer(model, name="model")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Output = Annotated[Path, typer.Option(help="Folder to write to; made if absent.")]
PrepFile = Annotated[Path, typer.Argument(help="YAML file: region, months, sources.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win.")
]
OptionalOutput = Annotated[Path | None, typer.Option(help="Folder to write to; made if absent.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def _print_versions(wanted: bool) -> None:
    if wanted:
        from ecomap.versions import versions

        for name, version in versions().items():
            typer.echo(f"{name} {version}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="Print versions that matter."
        ),
    ] = False,
) -> None:
    pass


@imports.command("ecomapper", epilog="Example: ecomap data import ecomapper DIR --output data/eco")
def import_ecomapper(
    path: Annotated[Path, typer.Argument(help="EcoMapper tree, or the folder of its CSV form.")],
    output: Output,
    drop: Annotated[
        list[str] | None, typer.Option(help="Leave out frames with this flag; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import EcoMapper: Sentinel-2 months with climate text; wrong units are corrected."""
    from data_prep.ecomapper import import_ecomapper

    with _progress("Reading frames") as progress:
        summary = import_ecomapper(path, output, drop_flags=drop or (), progress=progress)
    _finish(summary, as_json)


@imports.command("bluemarble", epilog="Example: ecomap data import bluemarble DIR --output data/bm")
def import_bluemarble(
    path: Annotated[Path, typer.Argument(help="Folder of the twelve mosaics 2004-MM.jpg.")],
    output: Output,
    stride_px: Annotated[int | None, typer.Option(help="Pixels between windows.")] = None,
    min_land_frac: Annotated[
        float | None, typer.Option(help="Least land in a window, 0-1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import windows of NASA's Blue Marble: twelve cloud-free months of all land."""
    from data_prep.bluemarble import BlueMarbleConfig, import_bluemarble

    config = BlueMarbleConfig(**_given(stride_px=stride_px, min_land_frac=min_land_frac))
    with _progress("Reading months") as progress:
        summary = import_bluemarble(path, output, config=config, progress=progress)
    _finish(summary, as_json)


@data.command("check", epilog="Example: ecomap data check data/eco --output runs/check")
def check(
    path: Annotated[Path, typer.Argument(help="Dataset folder, or a source tree.")],
    output: OptionalOutput = None,
    as_json: Json = False,
) -> None:
    """Count tiles by reason for caution and by class, and draw a contact sheet."""
    from data_prep.check import check_dataset

    with _progress("Reading frames") as progress:
        report = check_dataset(path, output, progress=progress)
    _finish(report, as_json)


@data.command("windows", epilog="Example: ecomap data windows data/eco --output data/eco_128")
def windows(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    output: Output,
    size_px: Annotated[int, typer.Option(help="Side of a window.")] = 128,
    stride_px: Annotated[
        int | None, typer.Option(help="Pixels between windows; by default they touch.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut the frames of a dataset into windows: a dataset of smaller images, as sharp."""
    from data_prep.windows import cut_windows

    with _progress("Reading frames") as progress:
        summary = cut_windows(path, output, size_px=size_px, stride_px=stride_px, progress=progress)
    _finish(summary, as_json)


@data.command(
    "split",
    epilog="""\b
Examples:
  ecomap data split data/eco --seed 3
  ecomap data split data/eco --by month --test-frac 0.25""",
)
def split(
    path: Annotated[Path, typer.Argument(help="Dataset folder; its split is replaced.")],
    by: Annotated[
        Literal["place", "month"],
        typer.Option(help="place: blocks of places; month: all places, at other times."),
    ] = "place",
    seed: Seed = None,
    block_deg: Annotated[
        float | None, typer.Option(help="Side of a block of places, degrees.")
    ] = None,
    test_frac: Annotated[
        float | None, typer.Option(help="Part of blocks or months for tests, 0-1.")
    ] = None,
    val_frac: Annotated[
        float | None, typer.Option(help="Part of blocks or months for choosing runs, 0-1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Divide a dataset by spatial block, or by month, and report how near its sides come."""
    from data_prep.month_splits import MonthSplitConfig, split_dataset_by_month
    from data_prep.splits import SplitConfig, split_dataset

    given = _given(seed=seed, block_deg=block_deg, test_frac=test_frac, val_frac=val_frac)
    if by == "month" and block_deg is not None:
        raise RequestError(
            f"block_deg is {block_deg:g}, but months have no blocks; leave it out or divide by "
            "place."
        )
    with redirect_stdout(sys.stderr):
        report = (
            split_dataset_by_month(path, MonthSplitConfig(**given))
            if by == "month"
            else split_dataset(path, SplitConfig(**given))
        )
    _finish(report, as_json)


@prep.command("run", epilog="Example: ecomap prep run configs/prep_example.yaml output=data/mine")
def prep_run(config: PrepFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Do all steps. Run again, it goes on where it stopped."""
    _prepare("run", config, overrides, as_json)


@prep.command("plan", epilog="Example: ecomap prep plan configs/prep_example.yaml")
def prep_plan(config: PrepFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Choose places, find their scenes, freeze both, and draw a map."""
    _prepare("plan", config, overrides, as_json)


@prep.command("fetch", epilog="Example: ecomap prep fetch configs/prep_example.yaml")
def prep_fetch(config: PrepFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Fetch imagery, land cover, climate and scenarios of a plan."""
    _prepare("fetch", config, overrides, as_json)


@prep.command("build", epilog="Example: ecomap prep build configs/prep_example.yaml")
def prep_build(config: PrepFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Join what was fetched to a dataset."""
    _prepare("build", config, overrides, as_json)


def _prepare(verb: str, config: Path, overrides: list[str] | None, as_json: bool) -> None:
    """Run a verb of `data_prep.pipeline` with a bar for each of its steps."""
    from data_prep import pipeline
    from data_prep.prep_config import PrepConfig
    from ecomap.config import load_config

    settings = load_config(config, PrepConfig, overrides or ())
    with _steps_progress() as progress, _patient_interrupt():
        result = getattr(pipeline, verb)(settings, progress=progress)
    _finish(result, as_json)


@prep.command("export", epilog="Example: ecomap prep export data/mine --kind webdataset")
def prep_export(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    kind: Annotated[str, typer.Option(help="webdataset, ecomapper or png.")],
    output: OptionalOutput = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this side of the split; may be repeated.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Leave out tiles with this flag; may be repeated.")
    ] = None,
    shard_size_mb: Annotated[
        float | None, typer.Option(help="Size of a shard, millions of bytes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a dataset as tar shards, as EcoMapper's tree, or as 8-bit PNG."""
    from data_prep.export import export_dataset

    given = _given(splits=split, drop_flags=drop, shard_size_mb=shard_size_mb)
    target = output or path / "exports" / kind
    with _progress("Writing tiles") as progress:
        summary = export_dataset(path, target, kind=kind, progress=progress, **given)  # type: ignore[arg-type]
    _finish(summary, as_json)


@prep.command("report", epilog="Example: ecomap prep report data/mine")
def prep_report(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: Json = False
) -> None:
    """Draw a dataset on one HTML page: map, counts, reasons, climate, leakage, licences."""
    from data_prep.prep_report import write_report

    with _progress("Reading frames") as progress:
        page = write_report(path, progress=progress)
    _finish({"page": str(page)}, as_json, text=str(page))


@app.command(epilog="Example: ecomap train configs/tiny/base.yaml optim.steps=200 --device cuda")
def train(
    config: Annotated[Path, typer.Argument(help="YAML file with a 'task' and what it changes.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Run folder, resumed if there; by default runs/CONFIG.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Number of steps: optim.steps in other words.")
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    count: Annotated[
        bool,
        typer.Option("--dry-run", help="Print parameters, memory, disk and time; start nothing."),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes that --dry-run counts.")] = 1,
    as_json: Json = False,
) -> None:
    """Train as a config file says: from scratch, whole, by LoRA, or a ControlNet."""
    from ecomap.train import dry_run
    from ecomap.train import train as run

    changes = [*(overrides or ()), *([] if max_steps is None else [f"optim.steps={max_steps}"])]
    if count:
        with redirect_stdout(sys.stderr):
            estimate = dry_run(config, changes, seed=seed, device=device, processes=processes)
        _finish(estimate, as_json)
        return
    with redirect_stdout(sys.stderr):
        done = run(config, changes, output=output, seed=seed, device=device)
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        _finish(done, as_json)


@model.command("path", epilog="Example: ecomap model path ecomap-tiny")
def model_path(
    name: Annotated[str, typer.Argument(help="Name of a shipped bundle, or a bundle's folder.")],
    as_json: Json = False,
) -> None:
    """Print the folder of a bundle."""
    from ecomap.bundle_paths import bundle_path

    path = str(bundle_path(name))
    _finish({"name": name, "path": path}, as_json, text=path)


@model.command("list")
def model_list(as_json: Json = False) -> None:
    """List the bundles and adapters that ship with ecomap."""
    from ecomap.adapter_card import adapter_names
    from ecomap.bundle_paths import bundle_names

    found = {"bundles": bundle_names(), "adapters": adapter_names()}
    lines = [*found["bundles"], *(f"{name} (adapter)" for name in found["adapters"])]
    _finish(found, as_json, text="\n".join(lines))


@model.command(
    "inspect",
    epilog="""\b
Examples:
  ecomap model inspect ecomap-tiny
  ecomap model inspect runs/lora/adapter --json
  ecomap model inspect transformer.safetensors""",
)
def model_inspect(
    name: Annotated[
        str, typer.Argument(help="Name of what ships, a folder, or a safetensors file.")
    ],
    as_json: Json = False,
) -> None:
    """Say what weights are: bundle, adapter, ControlNet, checkpoint; parts, sizes, base, card."""
    from ecomap.inspect_model import inspect_model

    _finish(inspect_model(name), as_json)


@model.command(
    "merge", epilog="Example: ecomap model merge runs/lora/adapter --output bundles/merged"
)
def model_merge(
    adapter: Annotated[str, typer.Argument(help="Name or folder of an adapter.")],
    output: Output,
    base: Annotated[
        str | None, typer.Option(help="Bundle that it belongs to; by default ecomap-tiny.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Strength; 0 is the base alone.")] = None,
    full_precision: Annotated[
        bool, typer.Option("--full-precision", help="Store float32 in place of float16.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base: one bundle that any pipeline of diffusers loads."""
    from ecomap.adapter_tools import merge_to_folder

    given = _given(base=base, scale=scale)
    with redirect_stdout(sys.stderr):
        merged = merge_to_folder(adapter, output, full_precision=full_precision, **given)
    _finish(merged, as_json)


@model.command(
    "convert",
    epilog="""\b
Example:
  ecomap model convert transformer.safetensors --alpha 64 --output adapters/sd3-ft \\
      --base stabilityai/stable-diffusion-3-medium-diffusers""",
)
def model_convert(
    path: Annotated[Path, typer.Argument(help="A whole transformer that was saved with a LoRA.")],
    base: Annotated[str, typer.Option(help="Bundle that was trained: name, folder or hub id.")],
    output: Output,
    alpha: Annotated[
        float | None, typer.Option(help="Alpha of the LoRA; by default its rank.")
    ] = None,
    rslora: Annotated[
        bool, typer.Option("--rslora", help="Its scale is alpha / sqrt(rank).")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name on the adapter's card.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a LoRA checkpoint of EcoMapper, which repeats the base, into an adapter."""
    from ecomap.convert_checkpoint import convert_checkpoint

    given = _given(alpha=alpha, name=name)
    with redirect_stdout(sys.stderr):
        converted = convert_checkpoint(path, output, base=base, rslora=rslora, **given)
    _finish(converted, as_json)


def _change_option(name: str) -> Any:
    """Option for a change of a climate variable, with its unit."""
    variable = CLIMATE[name]
    factor = "x0.5 (factor), " if variable.is_ratio else ""
    return typer.Option(
        metavar="CHANGE",
        help=f"{variable.label}: +2 or -2 (offset, {variable.unit}), {factor}"
        f"=21.5 (absolute, {variable.unit}).",
    )


@app.command(
    epilog="""\b
Examples:
  ecomap generate --lat 14.5 --lon -4.2 --month 8 --precipitation x0.5 -n 4
  ecomap generate --lat 61 --lon 25 --month 2004-04 --temperature -4 --json
  ecomap generate --prompt "Satellite image of savannas in August"
  ecomap generate --lat 14.5 --lon -4.2 --month 8 --adapter s2-10m
  ecomap generate --lat 14.5 --lon -4.2 --month 8 --controlnet runs/c/controlnet \\
      --control-image june.png --control-month 6 """.rstrip()
)
def generate(
    lat: Annotated[
        float | None, typer.Option(help="Latitude of the centre, degrees north.")
    ] = None,
    lon: Annotated[
        float | None, typer.Option(help="Longitude of the centre, degrees east.")
    ] = None,
    month: Annotated[str | None, typer.Option(help="YYYY-MM, or a month's number.")] = None,
    temperature: Annotated[str | None, _change_option("temperature_c")] = None,
    precipitation: Annotated[str | None, _change_option("precipitation_mm_day")] = None,
    solar: Annotated[str | None, _change_option("solar_radiation_mj_m2_day")] = None,
    land_cover: Annotated[
        str | None,
        typer.Option(help=f"IGBP class: name, or code {min(LandCover):d} to {max(LandCover):d}."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="JSON file of a tile record, in place of a place.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text, in place of a place.")] = None,
    number: Annotated[int | None, typer.Option("--number", "-n", help="Images to make.")] = None,
    seed: Seed = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; 1 is none.")] = None,
    solver: Annotated[str | None, typer.Option(help="Solver, such as dpmpp_2m.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Name or folder of a model bundle.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Name or folder of an adapter of that bundle.")
    ] = None,
    adapter_scale: Annotated[
        float | None, typer.Option(help="Strength of the adapter; 0 is the bundle alone.")
    ] = None,
    controlnet: Annotated[
        Path | None, typer.Option(help="Folder of a ControlNet trained beside the bundle.")
    ] = None,
    control_image: Annotated[
        Path | None, typer.Option(help="Image of the place for it, in another month.")
    ] = None,
    control_scale: Annotated[
        float | None, typer.Option(help="Strength of the ControlNet; 0 is none.")
    ] = None,
    control_month: Annotated[
        str | None, typer.Option(help="Month of that image: YYYY-MM, or a month's number.")
    ] = None,
    detector_weights: Annotated[
        Path | None, typer.Option(help="Folder of the weights of the ControlNet's detector.")
    ] = None,
    device: Device = "auto",
    output: OptionalOutput = None,
    as_json: Json = False,
) -> None:
    """Make images of a place in a month under a climate, with all that made them in a JSON."""
    given = _given(**{name: value for name, value in locals().items() if name != "as_json"})
    with _progress("Making images") as progress:
        from ecomap.generate import generate

        result = generate(**given, progress=progress)
    _finish(result, as_json)


@app.command(
    epilog="""\b
Examples:
  ecomap evolve --lat 46.5 --lon 9.5 --start-month 2012-07 --months 2012-01..2012-12
  ecomap evolve --start tile.tif --start-month 2021-07 --climate series.csv \\
      --months 2022-01..2023-12 --members 8
  ecomap evolve --start data/bluemarble --tile ID --months 2012-01..2012-12 \\
      --scenario configs/scenarios/plus_2c.yaml""".rstrip()
)
def evolve(
    months: Annotated[
        str, typer.Option(help="What is shown: 2030-01..2060-12, 2030..2060, or one month.")
    ],
    start: Annotated[
        list[Path] | None,
        typer.Option(
            help="GeoTIFF, PNG, JSON of a record, or a dataset; else it is generated. Repeated: "
            "months of one place, each shows what those before it hide."
        ),
    ] = None,
    tile: Annotated[list[str] | None, typer.Option(help="Tile of a dataset; once a start.")] = None,
    lat: Annotated[float | None, typer.Option(help="Latitude of the centre.")] = None,
    lon: Annotated[float | None, typer.Option(help="Longitude of the centre.")] = None,
    start_month: Annotated[
        list[str] | None, typer.Option(help="YYYY-MM that the start shows; once a start.")
    ] = None,
    land_cover: Annotated[str | None, typer.Option(help="IGBP class: name or code.")] = None,
    hidden: Annotated[
        list[Path] | None,
        typer.Option(help="Mask: not 0 where the start is not to be believed; once a start."),
    ] = None,
    elevation: Annotated[
        Path | None, typer.Option(help="Elevation model; temperature follows the ground.")
    ] = None,
    climate: Annotated[
        Path | None, typer.Option(help="Series of the place: CSV, NetCDF or Zarr.")
    ] = None,
    scenario: Annotated[
        list[Path] | None, typer.Option(help="YAML file of a scenario; may be repeated.")
    ] = None,
    every: Annotated[int, typer.Option(help="Show every so-many-th month.")] = 1,
    members: Annotated[int | None, typer.Option(help="Members of the ensemble.")] = None,
    chain: Annotated[
        bool | None, typer.Option("--chain", help="Begin each frame with the one before.")
    ] = None,
    seed: Seed = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; 1 is none.")] = None,
    solver: Annotated[str | None, typer.Option(help="Solver, such as dpmpp_2m.")] = None,
    doors: Annotated[
        str | None, typer.Option(help="Ways of the climate: text, tokens, text,tokens or none.")
    ] = None,
    control_scale: Annotated[
        float | None, typer.Option(help="Strength of the ControlNet; 0 is none.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Overlap of windows in large scenes, 0 to 0.9.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Name or folder of a model bundle.")] = None,
    controlnet: Annotated[
        Path | None, typer.Option(help="ControlNet in place of the bundle's own.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Name or folder of an adapter of that bundle.")
    ] = None,
    device: Device = "auto",
    output: OptionalOutput = None,
    as_json: Json = False,
) -> None:
    """Take a place through months of climate: a georeferenced sequence from one start.

    It goes to runs/evolve, or to the folder of --output; the same command goes on there.
    """
    from data_prep.scenarios import parse_months
    from data_prep.timelines import open_timelines
    from ecomap.card import parse_doors

    shown = parse_months(months, every=every)
    timelines = open_timelines(shown, scenarios=scenario or (), climate=climate)
    given = _given(
        start=start, tile=tile, lat=lat, lon=lon, start_month=start_month, land_cover=land_cover,
        hidden=hidden, elevation=elevation, members=members, chain=chain, seed=seed,
        steps=steps, guidance=guidance, solver=solver, control_scale=control_scale,
        overlap=overlap, bundle=bundle, controlnet=controlnet, adapter=adapter, device=device,
        output=output, doors=None if doors is None else parse_doors(doors),
    )  # fmt: skip
    with redirect_stdout(sys.stderr):
        from ecomap.evolve import evolve

        result = evolve(timelines, **given)
    _finish(result, as_json)


@app.command(
    epilog="""\b
Examples:
  ecomap evaluate --reference data/bluemarble --bundle ecomap-tiny --output runs/tiny
  ecomap evaluate --reference real/ --generated made/ size_px=256 --json
  ecomap evaluate --reference data/eco --generated ours=runs/a --generated theirs=runs/b
  ecomap evaluate --compare runs/a --compare runs/b --output runs/compare""".rstrip()
)
def evaluate(
    overrides: Overrides = None,
    reference: Annotated[
        Path | None, typer.Option(help="Real images: dataset, or folder with or without a table.")
    ] = None,
    generated: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FOLDER", help="Images to score; may be repeated."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="Makes images where none are given; else its autoencoder is a floor."),
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Real images that baselines may learn from.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks of the real images; not 0 is masked.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with settings; KEY=VALUE wins over it.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Folder of a report; give it twice.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Images to compare; by default the generated ones.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="serial, processes, dask, or the address of a Dask scheduler.")
    ] = "serial",
    workers: Annotated[int, typer.Option(min=1, help="Workers of processes or dask.")] = 2,
    seed: Seed = None,
    device: Device = "auto",
    output: OptionalOutput = None,
    as_json: Json = False,
) -> None:
    """Score images against real ones, beside baselines and floors, as a report and a page."""
    if compare:
        from ecomap.compare_reports import PAGE_FILE, compare_folders

        target = output or Path("runs/compare")
        with redirect_stdout(sys.stderr):
            comparison = compare_folders(compare, target, **_given(system=system))
        page = target / PAGE_FILE
        _finish(comparison.model_dump(mode="json") | {"page": str(page)}, as_json, text=str(page))
        return
    from data_prep.executors import open_executor
    from ecomap.config import load_config
    from ecomap.evaluate_config import EvaluateConfig

    changes = [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])]
    settings = load_config(config, EvaluateConfig, changes)
    given = _given(
        generated=generated, bundle=bundle, training=training, masks=masks, output=output
    )
    with _steps_progress() as progress, open_executor(scheduler, num_workers=workers) as executor:
        from ecomap.evaluate import evaluate

        result = evaluate(
            reference,
            **given,
            config=settings,
            device=device,
            executor=executor,
            progress=progress,
        )
    _finish(result, as_json)


@app.command(epilog="Example: ecomap demo --output runs/demo")
def demo(
    output: OptionalOutput = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make one HTML page: places, seasons, and climates that are drier, wetter, colder, warmer."""
    given = _given(output=output, seed=seed, device=device)
    with _progress("Making images") as progress:
        from ecomap.demo import demo

        result = demo(**given, progress=progress)
    _finish(result, as_json)


def _given(**options: Any) -> dict[str, Any]:
    """Options that were typed: defaults are stated once, in the functions."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, as a function of (done, total), while stdout is kept clean."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar, redirect_stdout(sys.stderr):
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _patient_interrupt() -> Iterator[None]:
    """Say at the first Ctrl-C what is waited for; the second one does not wait."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        typer.echo("stopping: tiles under way are finished; Ctrl-C again stops at once", err=True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _steps_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each step on stderr, as a function of (step, done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as bar, redirect_stdout(sys.stderr):

        def show(step: str, done: int, total: int) -> None:
            if total == 0:
                return
            if step not in bars:
                bars[step] = bar.add_task(step.replace("_", " "), total=total)
            bar.update(bars[step], completed=done, total=total)

        yield show


def _finish(result: Any, as_json: bool, *, text: str | None = None) -> None:
    """Print a result and leave with 1 if it lists failures.

    Args:
        result: A mapping, or an object with ``to_dict()`` and, where it has one, ``render()``.
        as_json: Whether to print JSON and nothing else.
        text: What to print otherwise.
    """
    content = result if isinstance(result, dict) else result.to_dict()
    line = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if as_json:
        typer.echo(line)
    elif text is not None:
        typer.echo(text)
    elif hasattr(result, "render"):
        from rich.console import Console

        rendered = result.render()
        if isinstance(rendered, str):  # paths must stay whole where the terminal is narrow
            typer.echo(rendered)
        else:
            Console(highlight=False, markup=False).print(rendered)
    else:
        import yaml

        typer.echo(yaml.safe_dump(json.loads(line), sort_keys=False, allow_unicode=True).rstrip())
    if content.get("failures"):
        raise typer.Exit(EXIT_FAILURES)


def main() -> None:
    """Entry point of the ``ecomap`` command."""
    app()
