"""The page of a held-out evaluation: its tables, plots and pictures."""

from calendar import month_abbr
from collections.abc import Mapping
from pathlib import Path

from ecomap.climate import parse_change
from ecomap.figures import observed_versus_generated, response_sweep
from ecomap.heldout_data import IndexName, Report, Sample, read_indices
from ecomap.heldout_response import RESPONSES
from ecomap.image_store import Images
from ecomap.outputs import contact_sheet
from ecomap.page import Cell, Figure, Section, Table, write_page
from ecomap.schema import CLIMATE

PAGE_FILE = "index.html"
PICTURE_FILE = "real_beside_generated.png"
NUM_PICTURED = 8
"""Places in the picture of real beside generated."""


def write_report_page(
    output: Path, report: Report, sample: Sample, made: Mapping[str, Images]
) -> None:
    """Write the picture and the page."""
    picture = output / PICTURE_FILE
    _draw_picture(picture, sample, made["conditional"])
    size = report["sample"]
    intro = (
        f"{report['bundle']['name']}: {size['num_places']} test places, {size['num_images']} "
        f"images a condition, {report['settings']['steps']} steps, guidance "
        f"{report['settings']['guidance']:g}.\n\n{report['command']}"
    )
    beside = Figure(
        caption="Each real row stands over the images generated for the same places and months.",
        png=picture,
        alt="Real frames beside generated images",
    )
    sections = [
        Section(heading="How to read this", text="\n\n".join(report["notes"])),
        Section(
            heading="Greenness and snow of held-out places",
            tables=[_index_table(report, "greenness"), _index_table(report, "snow")],
            figures=_scatters(sample, made["conditional"], report),
        ),
        Section(heading="Realism", tables=[_distance_table(report)]),
        Section(heading="Real beside generated", figures=[beside]),
        Section(
            heading="Response to climate",
            tables=[_response_table(answer) for answer in report["response"].values()],
            figures=_response_figures(report["response"]),
        ),
    ]
    footer = " ".join(dict.fromkeys(record.attribution for record in sample.records))
    write_page(output / PAGE_FILE, "Held-out evaluation", sections, intro=intro, footer=footer)


def _draw_picture(path: Path, sample: Sample, images: Images) -> None:
    """Real months of a place over the generated ones, place under place."""
    num = len(sample.months)
    pictures, captions, flags = [], [], []
    for start in range(0, min(NUM_PICTURED, len(sample.chosen)) * num, num):
        for source, is_real in ((sample.images, True), (images, False)):
            for index in range(start, start + num):
                record = sample.records[index]
                cover = record.land_cover.label if record.land_cover else ""
                pictures.append(source[index])
                captions.append(
                    f"{month_abbr[record.month_index + 1]}, {record.temperature_c:.0f} °C, "
                    f"{record.precipitation_mm_day:.1f} mm/day. {record.lat:.1f}, "
                    f"{record.lon:.1f}. {cover}"
                )
                flags.append(is_real)
    contact_sheet(path, pictures, captions, num, "Real over generated", is_real=flags)


def _scored(report: Report) -> dict[str, Report]:
    """Everything that was scored, by name, in the order of the tables."""
    floors = {name: report["floors"][name] for name in ("autoencoder", "real_vs_real")}
    return {**report["conditions"], **report["baselines"], **floors}


def _index_table(report: Report, index: IndexName) -> Table:
    """Scores of one index, each with its interval."""
    names = ("rmse", "mean_absolute_error", "pearson", "spearman", "anomaly_pearson",
             "anomaly_spearman")  # fmt: skip
    rows: list[list[Cell]] = [
        [name.replace("_", " "), *(_with_interval(scores[index][key]) for key in names)]
        for name, scores in _scored(report).items()
        if index in scores
    ]
    return Table(
        columns=["", *(name.replace("_", " ") for name in names)],
        rows=rows,
        caption=f"{index.capitalize()} against the real month, with 95 % intervals",
    )


def _with_interval(estimate: Mapping[str, float | None], key: str = "value") -> str | None:
    """A value with its interval in brackets."""
    value, low, high = (estimate[name] for name in (key, "low", "high"))
    if value is None:
        return None
    reach = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{reach}"


def _distance_table(report: Report) -> Table:
    """Distances to the real images in each feature space, and PSNR."""
    spaces = report["settings"]["spaces"]
    rows: list[list[Cell]] = []
    for name, scores in _scored(report).items():
        row: list[Cell] = [name.replace("_", " "), scores.get("num_images")]
        for space in spaces:
            found = scores.get("distances", {}).get(space)
            row.append(found and found["frechet"])
            row.append(found and f"{found['kernel']['mean']:.3g} ± {found['kernel']['std']:.2g}")
        rows.append([*row, scores.get("psnr_db")])
    heads = [f"{kind}, {space}" for space in spaces for kind in ("Fréchet", "kernel")]
    spoken = "; ".join(f"{space}: {report['feature_spaces'][space]}" for space in spaces)
    return Table(
        columns=["", "images", *heads, "PSNR (dB)"],
        rows=rows,
        caption=f"Distance to the real images. {spoken}.",
    )


def _response_table(answer: Report) -> Table:
    """Generated slope beside the observed ones."""
    generated, observed, seasonal = answer["generated"], answer["observed"], answer["seasonal"]
    lines = {"observed across places of a class": observed["across_places_of_a_class"]}
    lines |= {"observed over months within test places": observed["over_months_within_places"]}
    lines |= {f"over months within scored places, {k}": v for k, v in seasonal.items()}
    rows: list[list[Cell]] = []
    if generated:
        sign = generated["expected_sign"]
        for name, found in {"all": generated, **generated["by_land_cover"]}.items():
            share = found.get("expected_sign_fraction", sign["fraction"])
            rows.append([f"generated, {name}", _with_interval(found, "slope"), share,
                         found["num_cases"], found["num_blocks"]])  # fmt: skip
    rows += [
        [name, _with_interval(found, "slope"), None, found["num"], found["num_blocks"]]
        for name, found in lines.items()
    ]
    return Table(
        columns=["", answer["unit"], "share of expected sign", "cases or records", "cells"],
        rows=rows,
        caption=f"{answer['index'].capitalize()} against {answer['level']} "
        f"({', '.join(answer['changes'])}): {answer['rule']}. Over months: against the month's own "
        "value.",
    )


def _scatters(sample: Sample, images: Images, report: Report) -> list[Figure]:
    """Generated against real indices."""
    real, made = sample.real(sample.records), read_indices(images)
    figures = []
    for index in ("greenness", "snow"):
        scores = report["conditions"]["conditional"][index]
        note = f"Spearman {_with_interval(scores['spearman']) or 'undefined'}"
        png = observed_versus_generated(
            getattr(real, index), getattr(made, index), index.capitalize(), note=note
        )
        figures.append(Figure(caption=index.capitalize(), png=png, alt=f"Scatter of {index}"))
    return figures


def _response_figures(answers: Mapping[str, Report]) -> list[Figure]:
    """Mean index of the cases under each change; nothing where a response has no case."""
    rain, heat = (answers[response.name]["generated"] for response in RESPONSES)
    if not rain or not heat:
        return []
    factors, offsets = (
        [parse_change(text, CLIMATE[response.variable]).value for text in response.changes]
        for response in RESPONSES
    )
    png = response_sweep(
        precipitation_place=f"Mean of {rain['num_cases']} dry cases",
        precipitation_factors=factors,
        greenness=rain["mean_index"],
        temperature_place=f"Mean of {heat['num_cases']} cold cases",
        temperature_offsets_c=offsets,
        snow_frac=heat["mean_index"],
    )
    return [Figure(caption="Mean over cases, same noise for each", png=png, alt="Responses")]
