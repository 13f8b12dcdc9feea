"""The page of an evaluation: its claims, then the numbers, plots and pictures behind them.

Longer than the budget because a page is read from top to bottom, and so is its code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from ecomap.claims import GREENNESS, in_words
from ecomap.errors import ImageError
from ecomap.evaluation_plots import (
    Style,
    climate_panels,
    error_map,
    group_bars,
    styles,
)
from ecomap.evaluation_report import (
    GROUP_WORDS,
    SCORES_FILE,
    SECTION_WORDS,
    VERDICTS,
    Report,
    group_tables,
    heading_of,
    published_tables,
    section_tables,
    system_kinds,
)
from ecomap.figures import observed_versus_generated
from ecomap.outputs import Pixels, contact_sheet
from ecomap.page import Cell, Figure, Section, Table, write_page
from ecomap.schema import CLIMATE
from ecomap.scores import OBSERVED, find

PAGE_FILE = "index.html"
SHEET_FILE = "best_and_worst.png"

NUM_PICTURED = 4
"""Best images, and as many worst ones."""

COMPARED_IN_BARS = ("climate_analogue", "class_month_mean", "real_vs_real", "observed")
"""Systems beside the judged one in plots by group, where they were scored."""
COMPARED_IN_PANELS = ("shuffled_climate", "class_month_mean")
"""Likewise in plots against climate, beside the real images."""

BAR_METRICS = ("frechet_distance", "land_cover_accuracy", "index_rmse", "anomaly_pearson")
"""Metrics whose scores by land cover are drawn."""

INDEX_LABELS = {
    "gcc": "Greenness G/(R+G+B)",
    "ndvi": "NDVI",
    "snow_frac": "Snow fraction of land",
}

Pictures = Callable[[str, str], Pixels]
"""Pixels of an image by system and key, uint8 ``(H, W, 3)``; `OBSERVED` for the real one."""

HOW_TO_READ = (
    "Brackets hold intervals of {level:g} %. An arrow behind a metric points to its good values; a "
    "metric without one describes and does not judge.\n\n"
    "Baselines are simple methods that were scored like a model. Floors are real images that lost "
    "only what no model can keep, or other real images. Nulls are a model that was told nothing "
    "or the wrong thing. A model is worth its cost where it beats the baselines and stays away "
    "from the nulls; a difference below a floor means nothing."
)


def write_page_of(
    folder: Path, report: Report, tables: Mapping[str, pd.DataFrame], pictures: Pictures
) -> None:
    """Write `PAGE_FILE`, and `SHEET_FILE` where images can be shown.

    Args:
        folder: Where they go.
        report: What was found.
        tables: Measured table of each set of images by its name, index ``key``; the real images'
            under `OBSERVED`.
        pictures: Gives the images that are shown; one that raises `ImageError` is left out.
    """
    kinds = system_kinds(report)
    judged = [name for name, kind in kinds.items() if kind == "generated"]
    looks = styles(list(dict.fromkeys([*judged, *COMPARED_IN_BARS, *COMPARED_IN_PANELS])))
    sections = [
        *_claims(report),
        _guide(report),
        *_scores(report),
        *_by_class(report, judged, looks),
    ]
    for name in judged:
        if name in tables and OBSERVED in tables:
            sections += _images(folder, name, tables, pictures, looks)
    sections += [*_groups(report), *_counts(report), *_published(report), _metrics(report)]
    named = ", ".join(name.replace("_", " ") for name in judged) or "No system"
    reference = report.inputs[0] if report.inputs else None
    intro = "" if reference is None else f"Against {reference.kept} real images, {reference.path}."
    write_page(
        folder / PAGE_FILE, f"Evaluation: {named}", sections, intro=intro, footer=_footer(report)
    )


def _claims(report: Report) -> Iterator[Section]:
    """What the numbers support, what not, and what they leave open."""
    several = len({claim.system for claim in report.claims}) > 1
    for verdict, heading in VERDICTS.items():
        told = [claim for claim in report.claims if claim.verdict == verdict]
        paragraphs = []
        for claim in told:
            who = f"{claim.system.replace('_', ' ')}: " if several else ""
            paragraphs.append(f"▪ {who}{claim.sentence} {'; '.join(claim.evidence)}.")
        if told:
            yield Section(heading=heading, text="\n\n".join(paragraphs))


def _guide(report: Report) -> Section:
    """How to read the page, and what each claim needs."""
    rows: list[list[Cell]] = [
        ["; ".join(dict.fromkeys(c.sentence for c in report.claims if c.criterion == criterion)),
         criterion]
        for criterion in dict.fromkeys(claim.criterion for claim in report.claims)
    ]  # fmt: skip
    how = HOW_TO_READ.format(level=100 * report.config.level)
    return Section(
        heading="How to read this",
        text="\n\n".join([how, *report.notes]),
        tables=[Table(["claim", "what must hold"], rows)] if rows else [],
    )


def _scores(report: Report) -> Iterator[Section]:
    """Scores over all images, a section for each kind of question."""
    for section, heading in SECTION_WORDS.items():
        tables = section_tables(report, section)
        if tables:
            yield Section(heading=heading, tables=tables)


def _by_class(
    report: Report, judged: Sequence[str], looks: Mapping[str, Style]
) -> Iterator[Section]:
    """Bars of the first judged system by land cover, with what it is compared with."""
    figures = []
    for metric in BAR_METRICS:
        rows = find(report.scores, metric=metric, group_kind="land_cover")
        details = dict.fromkeys(score.detail for score in rows if score.system in judged[:1])
        for detail in details:
            names = [*judged, *(name for name in COMPARED_IN_BARS if name not in judged)]
            scores = {name: find(rows, system=name, detail=detail) for name in names}
            scores = {name: own for name, own in scores.items() if own}
            if all(score.value is None for own in scores.values() for score in own):
                continue
            label = heading_of(report, metric) + (f", {detail}" if detail else "")
            png = group_bars(scores, label, looks)
            figures.append(Figure(caption="", png=png, alt=f"{label} by land cover"))
    if figures:
        yield Section(
            heading="By land cover",
            text="Distances of all classes stand for equal numbers of images: at unequal ones they "
            "would mirror how common a class is.",
            figures=figures,
        )


def _images(
    folder: Path,
    name: str,
    tables: Mapping[str, pd.DataFrame],
    pictures: Pictures,
    looks: Mapping[str, Style],
) -> Iterator[Section]:
    """What one system's images show against the real ones of the same places and months."""
    both = tables[OBSERVED].index.intersection(tables[name].index)
    names = [OBSERVED, name, *(other for other in COMPARED_IN_PANELS if other in tables)]
    shown = {one: tables[one].loc[both.intersection(tables[one].index)] for one in names}
    measured = [
        index
        for index in INDEX_LABELS
        if all(index in shown[one] for one in (OBSERVED, name))
        and (shown[OBSERVED][index] - shown[name][index]).notna().any()
    ]
    if measured:
        who = name.replace("_", " ")
        yield Section(
            heading=f"Index against climate, {who}",
            text="Points are means of bins with equal numbers of real images, bars their 95 % "
            "intervals. Months of the south are moved by six.",
            figures=[_climate_figure(shown, index, looks) for index in measured],
        )
        yield Section(
            heading=f"Image by image, {who}",
            figures=[_scatter(shown[OBSERVED], shown[name], index) for index in measured],
        )
    if GREENNESS in measured:
        yield from _places(folder, name, tables, pictures)


def _climate_figure(
    shown: Mapping[str, pd.DataFrame], index: str, looks: Mapping[str, Style]
) -> Figure:
    """An index against climate and over the year, of all systems that have it."""
    label = INDEX_LABELS[index]
    having = {name: table for name, table in shown.items() if index in table}
    png = climate_panels(having, index, label, looks)
    return Figure(caption=label, png=png, alt=f"{label} against climate and over the year")


def _scatter(real: pd.DataFrame, made: pd.DataFrame, index: str) -> Figure:
    """An index of generated images against that of real ones."""
    label = INDEX_LABELS[index]
    png = observed_versus_generated(real[index], made.loc[real.index, index], label)
    return Figure(caption=label, png=png, alt=f"Scatter of {label}, real and generated")


def _places(
    folder: Path, name: str, tables: Mapping[str, pd.DataFrame], pictures: Pictures
) -> Iterator[Section]:
    """Where greenness is wrong, and the images in which it is most and least so."""
    who = name.replace("_", " ")
    both = tables[OBSERVED].index.intersection(tables[name].index)
    real, made = (tables[one].loc[both] for one in (OBSERVED, name))
    table = real.assign(error=made[GREENNESS] - real[GREENNESS])
    if table.dropna(subset=["lat", "lon", "error"]).shape[0]:
        png = error_map(table, "Greenness, generated less observed")
        alt = "Map of places by their mean error of greenness"
        yield Section(heading=f"Where it is too green and too brown, {who}",
                      figures=[Figure(caption="", png=png, alt=alt)])  # fmt: skip
    ranked = table["error"].abs().dropna().sort_values(kind="stable")
    num = min(NUM_PICTURED, len(ranked) // 2)
    chosen = {"best": list(ranked.index[:num]), "worst": list(ranked.index[::-1][:num])}
    images: list[Pixels] = []
    captions: list[str] = []
    for rank, key in ((rank, key) for rank, keys in chosen.items() for key in keys):
        try:
            images += [pictures(OBSERVED, key), pictures(name, key)]
        except ImageError:
            continue
        captions += [_caption(table.loc[key]), f"{rank}: error {table.loc[key, 'error']:+.2g}"]
    unread = 2 * num - len(captions) // 2
    told = "Each generated image stands right of the real one of its place and month."
    told += f" {unread} pairs could not be read." if unread else ""
    figures = []
    if images:
        path = folder / (SHEET_FILE if name == "generated" else f"{name}_{SHEET_FILE}")
        flags = [True, False] * (len(images) // 2)
        contact_sheet(path, images, captions, 4, "Greenness, best and worst", is_real=flags)
        figures = [Figure(caption="", png=path, alt="Real images beside generated ones")]
    if num:
        yield Section(heading=f"Best and worst in greenness, {who}", text=told, figures=figures)


def _caption(row: pd.Series) -> str:
    """What is known of a real image."""
    climate = [
        f"{row[name]:.3g} {CLIMATE[name].unit}" for name in CLIMATE if pd.notna(row.get(name))
    ]
    parts = [row["month"], row["land_cover"], *climate]
    return ", ".join(str(part) for part in parts if pd.notna(part)) or str(row.name)


def _groups(report: Report) -> Iterator[Section]:
    """Tables by land cover, month, season, year and extreme climate."""
    for kind, words in GROUP_WORDS.items():
        tables = group_tables(report, kind)
        if tables:
            yield Section(
                heading=f"Scores by {words}",
                text=f"Main metrics; {SCORES_FILE} has all.",
                tables=tables,
            )


def _counts(report: Report) -> Iterator[Section]:
    """What was read, what was left out and why, and what could not be made."""
    read: list[list[Cell]] = [
        [entry.name, entry.path, entry.kept, sum(entry.dropped.values()),
         "; ".join([*(f"{n} {why}" for why, n in entry.dropped.items()), *entry.notes]),
         entry.sha256[:12]]
        for entry in report.inputs
    ]  # fmt: skip
    systems: list[list[Cell]] = [
        [system.name.replace("_", " "), system.kind, system.n,
         "; ".join(f"{len(keys)} {why}" for why, keys in system.problems.items()),
         system.description]
        for system in report.systems
    ]  # fmt: skip
    absent: list[list[Cell]] = [
        [name.replace("_", " "), "", 0, f"not made: {why}", ""]
        for name, why in report.not_made.items()
    ]
    tables = [
        Table(["set", "path", "kept", "left out", "why, and notes", "sha256"], read, "Read"),
        Table(["system", "kind", "images", "left out", "what it is"], systems + absent, "Scored"),
    ]
    if report.spaces:
        tables.append(
            Table(
                ["feature space", "width", "what it is", "weights"],
                [[n, s.width, s.description, s.identity[:12]] for n, s in report.spaces.items()],
            )
        )
    yield Section(heading="What was read, and what was left out", tables=tables)


def _published(report: Report) -> Iterator[Section]:
    """Published scores, which stand beside ours and are not to be compared with them."""
    tables = published_tables(report.published)
    if tables:
        yield Section(
            heading="Published elsewhere",
            text="As printed. Where a reason against it stands below, no difference between these "
            "numbers and ours means anything.",
            tables=tables,
        )


def _metrics(report: Report) -> Section:
    """Formula and source of each metric that was computed."""
    used = {score.metric for score in report.scores}
    rows: list[list[Cell]] = [
        [metric.label, metric.unit, metric.better, metric.formula, metric.reference]
        for key, metric in report.metrics.items()
        if key in used
    ]
    return Section(
        heading="Metrics",
        tables=[Table(["metric", "unit", "good", "formula", "source"], rows)],
    )


def _footer(report: Report) -> str:
    """How to get the same numbers again."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    taken = in_words(sum(report.seconds.values())) if report.seconds else "n/a"
    return f"{report.command}\n\n{versions}; {taken} s; seed {report.config.seed}"
