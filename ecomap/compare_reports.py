"""Whether one run is better than another: the same images, one by one, and sets as a whole.

A mean over images is compared image by image, which takes away what makes some images hard for
both. Statistics of whole sets, such as distances, have no values of single images: there only
intervals can be set side by side, and that they overlap does not show that runs are equal.

Longer than the budget because it states how each measure is compared, and writes three views.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from ecomap.claims import MIN_BLOCKS, PairedTest, blocks_of, in_words, paired_test
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_plots import Change, change_bars
from ecomap.evaluation_report import (
    NOT_GIVEN,
    Report,
    heading_of,
    markdown_table,
    read_report,
    read_tiles,
    replacing,
)
from ecomap.feature_space import PREDICTED_SEASON_MONTH, season_month
from ecomap.page import Cell, Figure, Section, Table, write_page
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, Score, find
from ecomap.tiles import group_masks

COMPARE_FILE = "compare.json"
MARKDOWN_FILE = "compare.md"
PAGE_FILE = "index.html"

Direction = Literal["lower", "higher"]
Tables = Mapping[str, pd.DataFrame]
Values = Callable[[pd.DataFrame, pd.DataFrame], "pd.Series[float]"]
"""Value of each image of a system, from its table and that of the real images, in one order."""

SETTINGS_THAT_MATTER = tuple(
    name for name in EvaluateConfig.model_fields if name not in ("batch_size", "seed")
)
"""Settings that change what a score means, or how well it is known."""


@dataclass(frozen=True)
class Measure:
    """A value of single images by which runs are compared."""

    label: str
    unit: str
    better: Direction
    values: Values


def _error(column: str) -> Values:
    """Absolute error of a column against the real image."""
    return lambda own, real: (own[column] - real[column]).abs()


def _column(column: str) -> Values:
    """A column that is itself a comparison with the real image."""
    return lambda own, _: own[column]


def _asked(predicted: str, asked: str) -> Values:
    """Absolute error of what is read off an image against what was asked for."""
    return lambda own, _: (own[predicted] - own[asked]).abs()


def _hit(own: pd.DataFrame, _: pd.DataFrame) -> "pd.Series[float]":
    """1 where the class read off an image is the one asked for."""
    known = own["predicted_land_cover"].notna() & own["land_cover"].notna()
    labels = own["predicted_land_cover"][known].map(lambda code: LandCover(int(code)).label)
    return (labels == own["land_cover"][known]).astype(float).reindex(own.index)


def _months_apart(own: pd.DataFrame, _: pd.DataFrame) -> "pd.Series[float]":
    """Months between the season read off an image and its own, the shorter way round the year."""
    asked = pd.Series(season_month(own["month_index"], own["lat"]), own.index)
    apart = (own[PREDICTED_SEASON_MONTH] - 1 - asked) % 12
    return apart.where(apart <= 6, 12 - apart)


MEASURES: dict[str, Measure] = {
    **{
        index: Measure(f"error of {label}", "", "lower", _error(index))
        for index, label in (
            ("gcc", "greenness"), ("vari", "VARI"), ("exg", "ExG"), ("snow_frac", "snow fraction"),
            ("ndvi", "NDVI"), ("evi", "EVI"), ("ndsi", "NDSI"),
        )
    },
    "psnr_db": Measure("PSNR", "dB", "higher", _column("psnr_db")),
    "ssim": Measure("SSIM", "", "higher", _column("ssim")),
    "ms_ssim": Measure("MS-SSIM", "", "higher", _column("ms_ssim")),
    "perceptual": Measure("perceptual distance", "", "lower", _column("perceptual")),
    "spectrum_error": Measure("spectrum error", "dB", "lower", _column("spectrum_error")),
    "edge_f1": Measure("edge F1", "", "higher", _column("edge_f1")),
    "land_cover": Measure("land cover as asked", "share", "higher", _hit),
    "season": Measure("error of season", "months", "lower", _months_apart),
    "temperature_c": Measure(
        "error of temperature", "°C", "lower", _asked("predicted_temperature_c", "temperature_c")
    ),
    "precipitation_mm_day": Measure(
        "error of precipitation", "mm/day", "lower",
        _asked("predicted_precipitation_mm_day", "precipitation_mm_day"),
    ),
}  # fmt: skip
"""Values of single images; the names of those that are columns are the columns'."""


class _Part(BaseModel):
    """Part of a comparison."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Difference(_Part):
    """One measure on the images that both runs have, second run less first."""

    measure: str
    better: Direction
    group_kind: str = "all"
    group: str = "all"
    test: PairedTest

    @property
    def is_better(self) -> bool | None:
        """Whether the second run is better; None where the runs are not told apart."""
        return (self.test.sign == 1) == (self.better == "higher") if self.test.sign else None


class SetLevel(_Part):
    """One statistic of a whole set in both runs."""

    first: Score
    second: Score

    @property
    def separate(self) -> bool | None:
        """Whether the intervals do not touch; None where one is missing."""
        bounds = (self.first.low, self.first.high, self.second.low, self.second.high)
        if any(bound is None for bound in bounds):
            return None
        low_a, high_a, low_b, high_b = (float(bound or 0) for bound in bounds)
        return high_a < low_b or high_b < low_a


class Comparison(_Part):
    """What two runs on the same reference say of each other."""

    runs: tuple[str, str]
    system: str
    reference_sha256: str
    notes: list[str]
    """What differs between the runs beside the images, and how to read the numbers."""
    differences: list[Difference]
    sets: list[SetLevel]


def compare_folders(
    folders: Sequence[Path], output: Path, *, system: str = "generated"
) -> Comparison:
    """`compare_runs` of a list of folders.

    Raises:
        RequestError: If they are not two.
    """
    if len(folders) != 2:
        raise RequestError(
            f"{len(folders)} reports cannot be compared. Expected two: --compare A --compare B."
        )
    first, second = folders
    return compare_runs(first, second, output, system=system)


def compare_runs(a: Path, b: Path, output: Path, *, system: str = "generated") -> Comparison:
    """Compare a system of two reports and write `COMPARE_FILE`, `MARKDOWN_FILE` and `PAGE_FILE`.

    Args:
        a: Folder of the first report.
        b: Folder of the second.
        output: Folder of the comparison; missing folders are made.
        system: Name of the system in both reports.

    Raises:
        DataError: If a report cannot be read.
        RequestError: If the references differ, or a report lacks the system or the real images, or
            the two have no image in common.
    """
    reports = (read_report(a), read_report(b))
    sha256 = _same_reference(reports, (a, b))
    tables = (read_tiles(a), read_tiles(b))
    for found, folder in zip(tables, (a, b), strict=True):
        for name in (OBSERVED, system):
            if name not in found:
                raise RequestError(
                    f"{folder} has no images of {name!r}, only of {', '.join(sorted(found))}. "
                    "Choose one that both reports have."
                )
    differences = _differences(tables, system, reports[0].config)
    sets = _sets(reports, system)
    comparison = Comparison(
        runs=(str(a), str(b)),
        system=system,
        reference_sha256=sha256,
        notes=_notes(reports, tables, system, differences, sets),
        differences=differences,
        sets=sets,
    )
    _write(output, comparison, reports[0])
    return comparison


def _same_reference(reports: Sequence[Report], folders: Sequence[Path]) -> str:
    """Hash of the reference of both reports; other images would make differences meaningless."""
    hashes = [report.inputs[0].sha256 if report.inputs else "none" for report in reports]
    if hashes[0] != hashes[1]:
        raise RequestError(
            f"{folders[0]} was scored against a reference with sha256 {hashes[0][:12]}, "
            f"{folders[1]} against one with {hashes[1][:12]}. Evaluate both on the same reference."
        )
    return hashes[0]


def _differences(tables: Sequence[Tables], system: str, config: EvaluateConfig) -> list[Difference]:
    """All measures that both runs have, over all images and by land cover."""
    real = tables[0][OBSERVED]
    keys = real.index.intersection(tables[0][system].index).intersection(tables[1][system].index)
    if keys.empty:
        raise RequestError(
            f"The two runs have no image of {system!r} of the same place and month. Evaluate both "
            "on the same images."
        )
    real = real.loc[keys]
    own = [found[system].loc[keys] for found in tables]
    groups = {("all", "all"): np.ones(len(keys), bool)}
    groups |= {("land_cover", name): m for name, m in group_masks(real, "land_cover").items()}
    found = []
    for name, measure in MEASURES.items():
        try:
            values = [measure.values(table, real) for table in own]
        except KeyError:  # a column that one of the runs did not measure
            continue
        for (kind, group), mask in groups.items():
            first, second = (series.to_numpy(np.float64)[mask] for series in values)
            test = paired_test(
                first,
                second,
                blocks_of(real)[mask],
                num_draws=config.num_draws,
                level=config.level,
                seed=config.seed,
            )
            if test.n:
                found.append(
                    Difference(measure=name, better=measure.better, group_kind=kind, group=group,
                               test=test)
                )  # fmt: skip
    return found


def _sets(reports: Sequence[Report], system: str) -> list[SetLevel]:
    """Scores that both runs have for the same metric, detail and group."""

    def named(score: Score) -> tuple[str, ...]:
        return score.section, score.metric, score.detail, score.group_kind, score.group

    others = {named(score): score for score in find(reports[1].scores, system=system)}
    return [
        SetLevel(first=score, second=others[named(score)])
        for score in find(reports[0].scores, system=system)
        if named(score) in others
    ]


def _notes(
    reports: Sequence[Report],
    tables: Sequence[Tables],
    system: str,
    differences: Sequence[Difference],
    sets: Sequence[SetLevel],
) -> list[str]:
    """What a reader must know before the numbers."""
    notes = []
    counts = [len(found[system]) for found in tables]
    shared = len(tables[0][system].index.intersection(tables[1][system].index))
    notes.append(
        f"Image by image: {shared} images that both have, of {counts[0]} and {counts[1]}. The p "
        "value is that of a signed-rank test of the means of blocks. Fewer than "
        f"{MIN_BLOCKS} blocks do not tell runs apart."
    )
    tests = sum(difference.group_kind == "all" for difference in differences)
    notes.append(f"{tests} measures are tested; about one in twenty would differ by chance alone.")
    uneven = sum(one.first.n != one.second.n for one in sets)
    if uneven:
        notes.append(
            f"{uneven} statistics of whole sets stand for other numbers of images in the two runs; "
            "Fréchet distances fall as that number rises."
        )
    changed = [
        f"{name}: {getattr(reports[0].config, name)!r} and {getattr(reports[1].config, name)!r}"
        for name in SETTINGS_THAT_MATTER
        if getattr(reports[0].config, name) != getattr(reports[1].config, name)
    ]
    if changed:
        notes.append(f"The settings differ, and with them what scores mean. {'; '.join(changed)}.")
    spaces = [
        name
        for name, space in reports[0].spaces.items()
        if name in reports[1].spaces and reports[1].spaces[name].identity != space.identity
    ]
    if spaces:
        notes.append(
            f"The weights of {', '.join(spaces)} differ: distances in it cannot be compared."
        )
    return notes


def difference_table(comparison: Comparison, kind: str = "all") -> Table:
    """Differences image by image: over all images, or by group."""
    rows: list[list[Cell]] = []
    for one in comparison.differences:
        if one.group_kind == kind:
            measure, test = MEASURES[one.measure], one.test
            unit = f" ({measure.unit})" if measure.unit else ""
            verdict = {True: "second better", False: "second worse", None: "not told apart"}
            label = measure.label if kind == "all" else f"{measure.label}, {one.group}"
            rows.append([
                label + unit, test.n, test.num_blocks, test.num_left_out, test.mean_a, test.mean_b,
                in_words(test.difference, test.low, test.high), test.p_value,
                verdict[one.is_better],
            ])  # fmt: skip
    heads = ["", "images", "blocks", "left out", "first", "second", "second less first", "p", ""]
    return Table(heads, rows, "Means over the images that both runs have, with intervals")


def set_table(comparison: Comparison, report: Report) -> Table:
    """Statistics of whole sets over all images, side by side."""
    words = {True: "apart", False: "overlap", None: NOT_GIVEN}
    rows: list[list[Cell]] = [
        [heading_of(report, one.first.metric), one.first.detail,
         in_words(one.first.value, one.first.low, one.first.high), one.first.n,
         in_words(one.second.value, one.second.low, one.second.high), one.second.n,
         words[one.separate]]
        for one in comparison.sets
        if one.first.group_kind == "all"
    ]  # fmt: skip
    heads = ["", "of", "first", "n", "second", "n", "intervals"]
    return Table(heads, rows, "Statistics of whole sets; overlap does not show that they are equal")


def _changes(comparison: Comparison) -> list[Change]:
    """Differences over all images as fractions of the first run's value."""
    changes = []
    for one in comparison.differences:
        test, measure = one.test, MEASURES[one.measure]
        if one.group_kind != "all" or not test.mean_a or test.difference is None:
            continue
        scale = abs(test.mean_a)
        good = "less" if one.better == "lower" else "more"
        changes.append(
            Change(
                f"{measure.label} ({good} is better)",
                test.difference / scale,
                None if test.low is None else test.low / scale,
                None if test.high is None else test.high / scale,
                one.is_better,
            )
        )
    return changes


def _write(output: Path, comparison: Comparison, report: Report) -> None:
    """Write the comparison as JSON, Markdown and a page."""
    output.mkdir(parents=True, exist_ok=True)
    total, by_class = (difference_table(comparison, kind) for kind in ("all", "land_cover"))
    sets = set_table(comparison, report)
    title = f"Comparison of {comparison.system}"
    runs = f"First: {comparison.runs[0]}. Second: {comparison.runs[1]}."
    changes = _changes(comparison)
    figures = [
        Figure(caption="", png=change_bars(changes), alt="Relative differences with intervals")
    ] if changes else []  # fmt: skip
    sections = [
        Section(heading="Image by image", tables=[total], figures=figures),
        Section(heading="Sets as a whole", tables=[sets]),
        Section(heading="Image by image, by land cover", tables=[by_class]),
    ]
    intro = "\n\n".join([runs, *comparison.notes])
    parts = [f"# {title}", runs, *comparison.notes]
    parts += [part for s in sections for part in (f"## {s.heading}", markdown_table(s.tables[0]))]
    write_page(output / PAGE_FILE, title, sections, intro=intro)
    with replacing(output / MARKDOWN_FILE) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with replacing(output / COMPARE_FILE) as temporary:
        content = comparison.model_dump(mode="json")
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
