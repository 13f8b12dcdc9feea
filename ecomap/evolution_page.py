"""The page of an evaluation of evolution: goals, tables, plots and a contact sheet."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from ecomap.claims import in_words
from ecomap.errors import ImageError
from ecomap.evaluation_page import Pictures
from ecomap.evaluation_plots import error_map, group_bars, styles
from ecomap.evaluation_report import VERDICTS
from ecomap.evolution_gains import GENERATED, RIVALS, Gain
from ecomap.evolution_making import CHAINED
from ecomap.evolution_pairs import AHEAD, SERIES
from ecomap.evolution_plots import rank_bars, step_lines, system_bars
from ecomap.evolution_report import METRICS, EvolutionReport
from ecomap.outputs import SYNTHETIC_STATEMENT, contact_sheet
from ecomap.page import Cell, Figure, Section, Table, write_page
from ecomap.scores import FEW_BLOCKS, OBSERVED, Score, find

PAGE_FILE, SHEET_FILE = "index.html", "contact_sheet.png"

SHEET_PLACES = 6
SHEET_SYSTEMS = (GENERATED, "persistence", "climate_analogue", "class_month_mean")
SHEET_AHEAD = 6
"""Months from the start that pairs on the sheet come nearest to."""

MAIN: dict[str, tuple[tuple[str, str], ...]] = {
    "Images": tuple(
        (name, "") for name in
        ("psnr_db", "ssim", "ms_ssim", "perceptual", "spectrum_error", "edge_f1")
    ),
    "Greenness and snow": tuple(
        (name, index) for index in ("gcc", "snow_frac")
        for name in ("index_rmse", "index_mae", "index_bias", "anomaly_pearson",
                     "change_direction")
    ),
}  # fmt: skip
"""Columns of the tables of systems: metric and detail."""

BARS = (("psnr_db", ""), ("perceptual", ""), ("index_rmse", "gcc"), ("index_rmse", "snow_frac"))

HOW_TO_READ = (
    "Each pair begins at a real frame of a place and asks for another month of it. Brackets hold "
    "intervals of {level:g} % over whole blocks of places, since neighbouring windows overlap and "
    "share their weather; with fewer than {few} blocks they are too narrow, and nothing is decided."
    "\n\nPersistence is the start, copied. The class mean and the climate analogue come from "
    "training frames of other places. The autoencoder shows what no model of its latents keeps. "
    "Gains are positive where the generated images are better."
)


def write_evolution_page(
    folder: Path,
    report: EvolutionReport,
    tables: Mapping[str, pd.DataFrame],
    pictures: Pictures,
) -> list[Path]:
    """Write `PAGE_FILE`, and `SHEET_FILE` where images can be shown.

    Args:
        folder: Where they go; made if absent.
        report: What was found.
        tables: Measured table of each system by pair, the real targets under `OBSERVED`.
        pictures: Pixels of an image by system and key; one that raises `ImageError` is left out.

    Returns:
        The files.
    """
    sheet = _write_sheet(folder, tables, pictures)
    sections = [*_claims(report), *_tables(report), *_figures(report, tables), *_sheet(sheet)]
    sections += [_systems(report), _metrics(report)]
    level = 100 * float(report.settings.get("level", 0.95))
    write_page(
        folder / PAGE_FILE,
        "Landscape evolution: how well other months are met",
        sections,
        intro="\n\n".join([HOW_TO_READ.format(level=level, few=FEW_BLOCKS), *report.notes]),
        footer=SYNTHETIC_STATEMENT if GENERATED in tables else "",
    )
    return [folder / PAGE_FILE] + ([] if sheet is None else [sheet])


def _claims(report: EvolutionReport) -> Iterator[Section]:
    """Goals by verdict."""
    for verdict, heading in VERDICTS.items():
        told = [claim for claim in report.claims if claim.verdict == verdict]
        if told:
            text = "\n\n".join(f"▪ {one.sentence} {'; '.join(one.evidence)}." for one in told)
            yield Section(heading=heading, text=text)


def _tables(report: EvolutionReport) -> Iterator[Section]:
    """Systems by metric, then the gains, then all other scores over all pairs."""
    names = list(dict.fromkeys(score.system for score in report.scores))
    shown = set[tuple[str, str]]()
    for heading, columns in MAIN.items():
        rows: list[list[Cell]] = []
        for name in names:
            cells = [_cell(report.scores, name, *column) for column in columns]
            if any(cells):
                rows.append([name.replace("_", " "), *(cell or "" for cell in cells)])
        shown |= set(columns)
        if rows:
            heads = ["system", *(_heading(*column) for column in columns)]
            yield Section(heading=heading, tables=[Table(heads, rows)])
    if report.gains:
        yield Section(heading="Gains", tables=[_gain_table(report.gains)])
    rest = [s for s in report.scores if s.group == "all" and (s.metric, s.detail) not in shown]
    if rest:
        others: list[list[Cell]] = [
            [s.system.replace("_", " "), _heading(s.metric, s.detail),
             in_words(s.value, s.low, s.high), s.n, s.flag] for s in rest
        ]  # fmt: skip
        table = Table(["system", "metric", "value", "n", "flag"], others)
        yield Section(heading="Structure, identity, ensemble and response", tables=[table])


def _gain_table(gains: Sequence[Gain]) -> Table:
    """One row a gain."""
    rows: list[list[Cell]] = [
        [one.measure, one.rival.replace("_", " "), in_words(one.own), in_words(one.other),
         in_words(one.gain, one.low, one.high),
         "" if one.share is None else in_words(one.share, one.share_low, one.share_high),
         one.n, one.num_blocks, one.verdict]
        for one in gains
    ]  # fmt: skip
    heads = ["measure", "rival", "generated", "rival's", "gain", "as a share of its error"]
    return Table([*heads, "n", "blocks", "verdict"], rows)


def _cell(scores: Sequence[Score], system: str, metric: str, detail: str) -> str:
    """A score over all pairs in words; empty where there is none."""
    found = find(scores, system=system, metric=metric, detail=detail, group="all")
    return in_words(found[0].value, found[0].low, found[0].high) if found else ""


def _heading(metric: str, detail: str) -> str:
    """Label of a metric with its unit, arrow and detail."""
    known = METRICS[metric]
    arrow = {"lower": " ↓", "higher": " ↑", "zero": " → 0", "one": " → 1"}.get(known.better, "")
    unit = f" ({known.unit})" if known.unit else ""
    return f"{known.label}{unit}{arrow}" + (f", {detail}" if detail else "")


def _figures(report: EvolutionReport, tables: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    """Bars of systems, of classes, errors by step, ranks, and a map."""
    names = list(dict.fromkeys(s.system for s in report.scores if s.section != "response"))
    looks = styles(names)
    figures = []
    for metric, detail in BARS:
        found = find(report.scores, metric=metric, detail=detail, group="all")
        if found:
            label = _heading(metric, detail)
            figures.append(Figure("", system_bars(found, label, looks), f"{label} of all systems"))
    classes = {
        name: find(report.scores, system=name, metric="index_rmse", detail="gcc",
                   group_kind="land_cover")
        for name in (GENERATED, *RIVALS)
    }  # fmt: skip
    classes = {name: rows for name, rows in classes.items() if rows}
    if classes:
        label = _heading("index_rmse", "gcc")
        figures.append(Figure("", group_bars(classes, label, looks), f"{label} by land cover"))
    steps = find(report.scores, group_kind="months_ahead")
    for metric in dict.fromkeys(score.metric for score in steps):
        rows = find(steps, metric=metric)
        label = _heading(metric, rows[0].detail)
        words = "Chained months begin at the generated month before; direct ones at the start."
        caption = words if any(row.system == CHAINED for row in rows) else ""
        figures.append(Figure(caption, step_lines(rows, label, looks), f"{label} by months ahead"))
    for histogram in report.histograms:
        figures.append(Figure("", rank_bars(histogram), f"Rank histogram of {histogram.index}"))
    judged = GENERATED if GENERATED in tables else "persistence"
    if judged in tables:
        png = _map(tables[OBSERVED], tables[judged])
        if png is not None:
            words = f"Greenness error of {judged}"
            figures.append(Figure(words, png, f"Map of places by {words.lower()}"))
    if figures:
        yield Section(heading="Plots", figures=figures)


def _map(real: pd.DataFrame, made: pd.DataFrame) -> bytes | None:
    """Places by their mean error of greenness; None where nothing can be mapped."""
    error = made["gcc"].reindex(real.index) - real["gcc"]
    table = real.assign(error=error)
    if table.dropna(subset=["lat", "lon", "error"]).empty:
        return None
    return error_map(table, "Greenness error")


def _write_sheet(
    folder: Path, tables: Mapping[str, pd.DataFrame], pictures: Pictures
) -> Path | None:
    """One pair of each of a few places: the start, the real target, and every system."""
    real = tables[OBSERVED]
    names = [OBSERVED, *(name for name in SHEET_SYSTEMS if name in tables)]
    images, captions, flags = [], list[str](), list[bool | None]()
    for key in sheet_keys(real):
        try:
            row = [pictures(name, str(key)) for name in names]
        except (ImageError, KeyError):
            continue
        images += row
        cover = str(real.loc[key, "land_cover"] or "")
        about = f"{cover}, {str(key).rpartition('/')[2]}"
        captions += [f"{name.replace('_', ' ')}, {about}" for name in names]
        is_mean = {"class_month_mean": None, GENERATED: False}
        flags += [is_mean.get(name, True) for name in names]
    if not images:
        return None
    path = folder / SHEET_FILE
    title = "Other months of a place: real, generated and rivals"
    contact_sheet(path, images, captions, len(names), title, is_real=flags)
    return path


def sheet_keys(real: pd.DataFrame) -> list[str]:
    """Pairs of a few places, from south to north, whose starts take turns over the year.

    Args:
        real: Real targets, index ``key``.
    """
    apart = (real[AHEAD] - SHEET_AHEAD).abs()
    month = real[SERIES].str[-2:]
    turns = [str(one) for one in sorted(month.unique())]
    places = real.sort_values("lat", kind="stable")["place"].unique()
    count = min(SHEET_PLACES, len(places))
    keys = []
    for turn in range(count):
        is_its = real["place"] == places[round(turn * (len(places) - 1) / max(1, count - 1))]
        own = is_its & (month == turns[turn % len(turns)])
        keys += [str(apart[own if own.any() else is_its].idxmin())]
    return keys


def _sheet(path: Path | None) -> Iterator[Section]:
    if path is not None:
        words = "Real targets, and what stands for them; the key names target and start."
        figure = Figure("", path, "Contact sheet of real, generated and rival images")
        yield Section(heading="Images", text=words, figures=[figure])


def _systems(report: EvolutionReport) -> Section:
    """What was compared, and what was left out."""
    rows: list[list[Cell]] = [
        [name.replace("_", " "), kind, words] for name, (kind, words) in report.systems.items()
    ]
    tables = [Table(["system", "kind", "what it is"], rows)]
    if report.dropped:
        left: list[list[Cell]] = [[reason, num] for reason, num in report.dropped.items()]
        tables.append(Table(["left out", "number"], left))
    settings: list[list[Cell]] = [[name, str(value)] for name, value in report.settings.items()]
    tables.append(Table(["setting", "value"], settings))
    return Section(heading="What was compared", tables=tables)


def _metrics(report: EvolutionReport) -> Section:
    """Formula and source of each metric that has a score."""
    used = dict.fromkeys(score.metric for score in report.scores)
    rows: list[list[Cell]] = [
        [METRICS[name].label, METRICS[name].formula, METRICS[name].reference] for name in used
    ]
    return Section(heading="Metrics", tables=[Table(["metric", "formula", "source"], rows)])
