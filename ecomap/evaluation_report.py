"""A report on disk, and the tables that pages and papers take from it.

``report.json`` holds everything; ``scores.csv``, ``tiles.parquet`` and ``report.md`` are views of
it and of the tables it was computed from. Files appear by an atomic rename.

Longer than the budget because the form of a report and its tables have to change together.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ecomap.claims import Claim, Verdict, in_words
from ecomap.errors import DataError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.page import UNKNOWN, Cell, Table
from ecomap.published import REASONS, PublishedScore
from ecomap.scores import OBSERVED, Metric, Score, Section, find, to_frame
from ecomap.tiles import ScoredTile, SetKind, tile_table

REPORT_FILE = "report.json"
SCORES_FILE = "scores.csv"
TILES_FILE = "tiles.parquet"
MARKDOWN_FILE = "report.md"

REPORT_SCHEMA_VERSION: Final = 1
"""Version of `REPORT_FILE`; it rises when a reader must change."""

SECTION_WORDS: dict[Section, str] = {
    "realism": "Realism",
    "paired": "Against the real image of the same place and month",
    "adherence": "Does an image show what was asked for?",
    "vegetation": "Vegetation and climate",
    "response": "Response when only the climate changes",
    "forecast": "Forecast of monthly greenness",
}
"""Headings, in the order of a report."""

ARROWS = {"lower": " ↓", "higher": " ↑", "zero": " → 0", "one": " → 1", "none": ""}
"""Which values are good, behind a metric's name."""

VERDICTS: dict[Verdict, str] = {
    "supported": "The numbers support",
    "not supported": "The numbers do not support",
    "undecided": "The numbers do not decide",
}

GROUP_WORDS = {
    "land_cover": "land cover",
    "month": "calendar month",
    "season": "season",
    "year": "year",
    "extreme": "extreme climate",
}

GROUPED_METRICS = (
    *("frechet_distance", "kernel_distance", "coverage"),
    *("land_cover_accuracy", "psnr_db", "perceptual", "clip_score"),
    *("index_rmse", "index_spearman", "anomaly_pearson", "forecast_rmse", "response_slope"),
)
"""Metrics whose scores by group stand on the page; `SCORES_FILE` has all."""

INDICES = ("ndvi", "gcc", "snow_frac")
"""Indices that pages show, where they were measured; `SCORES_FILE` has all."""

COUNT = "tiles_left_out"
"""Metric whose details are reasons."""

MARK = "†"
"""Behind a value whose flag says to read it with care."""

TILE_COLUMNS = tuple(tile_table([ScoredTile(key="")]).columns)

NOT_GIVEN = "–"
"""Cell of a score that a system has not."""

EXTRA_SYSTEMS = {
    OBSERVED: "observed",
    "place_only": "null",
    "month_only": "null",
    "real_vs_real": "floor",
}
"""Systems that are no set of images."""

KIND_ORDER = ("generated", "baseline", "null", "floor", "observed", "reference", "other")


class _Part(BaseModel):
    """Part of a report: complete, immutable, and without numbers that JSON does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Input(_Part):
    """A set of images as it was given."""

    name: str
    path: str
    sha256: str
    """Over names and contents of its files or records: the same images have the same."""
    kept: int = Field(ge=0)
    """Images that were scored."""
    dropped: dict[str, int] = {}
    """Images and rows that were not, by reason."""
    notes: list[str] = []


class Space(_Part):
    """A feature space of distances."""

    description: str
    identity: str
    """Hash of its weights."""
    width: int = Field(ge=1)


class System(_Part):
    """A set of images that was scored."""

    name: str
    kind: SetKind
    description: str
    n: int = Field(ge=0)
    problems: dict[str, list[str]] = {}
    """Keys of images that could not be scored, by reason."""


class Report(_Part):
    """Everything that an evaluation found, and what is needed to find it again."""

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    command: str
    config: EvaluateConfig
    generation: dict[str, JsonValue] = {}
    """Bundle, steps, guidance and seed, where a bundle made the images."""
    versions: dict[str, str]
    inputs: list[Input]
    """The first one is the reference."""
    spaces: dict[str, Space] = {}
    systems: list[System]
    not_made: dict[str, str] = {}
    """Baselines that could not be made, with the reason."""
    notes: list[str] = []
    metrics: dict[str, Metric]
    """What a reader must know of each metric."""
    claims: list[Claim] = []
    scores: list[Score]
    published: list[PublishedScore] = []
    seconds: dict[str, float] = {}
    """Time that each step took; the only entries that differ between equal runs."""


def write_report(folder: Path, report: Report, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write a report with its views; missing folders are made.

    Args:
        folder: Gets `REPORT_FILE`, `SCORES_FILE`, `TILES_FILE` and `MARKDOWN_FILE`.
        report: What was found.
        tables: Measured table of each set of images by its name, index ``key``; the real images'
            under `OBSERVED`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = report.model_dump(mode="json")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    tiles = [table.reset_index().assign(system=name) for name, table in tables.items()]
    joined = pd.concat(tiles, ignore_index=True) if tiles else pd.DataFrame()
    with replacing(folder / TILES_FILE) as temporary:
        order = ["system", "key", *(c for c in joined if c not in ("system", "key"))]
        joined.reindex(columns=order).to_parquet(temporary, index=False)
    with replacing(folder / SCORES_FILE) as temporary:
        to_frame(report.scores).to_csv(temporary, index=False)
    with replacing(folder / MARKDOWN_FILE) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    with replacing(folder / REPORT_FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_report(folder: Path) -> Report:
    """Read `REPORT_FILE` of a folder.

    Raises:
        DataError: If it is missing, no report, or of another schema version.
    """
    path = folder / REPORT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Give a folder that `ecomap evaluate` wrote."
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}. Evaluate again.") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != REPORT_SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {version!r}, expected {REPORT_SCHEMA_VERSION}. Evaluate "
            "again with this version of ecomap, or read it with the one that wrote it."
        )
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg']}. Evaluate again.") from None


def read_tiles(folder: Path) -> dict[str, pd.DataFrame]:
    """Read `TILES_FILE`: the measured table of each system, index ``key``.

    Measures of which a system has no value are absent from its table; the columns of
    `tiles.tile_table` never are.

    Raises:
        DataError: If the file is missing or no Parquet.
    """
    path = folder / TILES_FILE
    try:
        joined = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Evaluate again.") from None
    tables = {}
    for name, own in joined.groupby("system", sort=False):
        table = own.drop(columns="system").set_index("key")
        tables[str(name)] = table.loc[:, table.notna().any() | table.columns.isin(TILE_COLUMNS)]
    return tables


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it once the block has gone well."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def system_kinds(report: Report) -> dict[str, str]:
    """Kind of every system of the scores, in the order of tables: judged systems first."""
    kinds: dict[str, str] = {system.name: system.kind for system in report.systems}
    for score in report.scores:
        kinds.setdefault(score.system, EXTRA_SYSTEMS.get(score.system, "other"))
    return dict(sorted(kinds.items(), key=lambda item: KIND_ORDER.index(item[1])))


def heading_of(report: Report, metric: str) -> str:
    """A metric's label with its unit, and an arrow to its good values."""
    known = report.metrics.get(metric)
    if known is None:
        return metric.replace("_", " ")
    unit = f" ({known.unit})" if known.unit else ""
    return f"{known.label}{unit}{ARROWS[known.better]}"


def is_shown(score: Score) -> bool:
    """Whether a page shows a score: of vegetation, one of `INDICES` in the month itself."""
    if score.section != "vegetation" or score.metric == COUNT:
        return True
    about, _, driver = score.detail.partition(" ~ ")
    return about.split(",")[0] in ("", *INDICES) and (not driver or " lag 0" in driver)


def section_tables(report: Report, section: Section) -> list[Table]:
    """Scores over all images: systems under each other, a table for each detail.

    Correlations and slopes, of which one detail ("gcc ~ temperature_c lag 0 | raw") has few, stand
    the other way round, details under each other and a table for each metric.
    """
    rows = [s for s in find(report.scores, section=section, group_kind="all") if is_shown(s)]
    drivers = [score for score in rows if "~" in score.detail or score.metric == COUNT]
    others = [score for score in rows if score not in drivers]
    tables = [
        _systems_table(report, [s for s in others if s.detail == detail], detail)
        for detail in _unique(score.detail for score in others)
    ]
    tables += [
        _details_table(report, [s for s in drivers if s.metric == metric], "detail")
        for metric in _unique(score.metric for score in drivers)
    ]
    return tables


def group_tables(report: Report, kind: str) -> list[Table]:
    """Scores by group, such as land cover: groups under each other, systems side by side."""
    rows = [
        score
        for score in find(report.scores, group_kind=kind)
        if score.metric in GROUPED_METRICS and is_shown(score) and "~" not in score.detail
    ]
    return [
        _details_table(report, [s for s in rows if (s.metric, s.detail) == key], "group")
        for key in dict.fromkeys((score.metric, score.detail) for score in rows)
    ]


def _systems_table(report: Report, scores: Sequence[Score], detail: str) -> Table:
    """Systems by metrics."""
    metrics = _unique(score.metric for score in scores)
    kinds = {name: kind for name, kind in system_kinds(report).items() if find(scores, system=name)}
    rows: list[list[Cell]] = []
    for name, kind in kinds.items():
        own = {score.metric: score for score in find(scores, system=name)}
        numbers = sorted({score.n for score in own.values()})
        n = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        rows.append([_plain(name), kind, n, *(_cell(own.get(metric)) for metric in metrics)])
    heads = [heading_of(report, metric) for metric in metrics]
    caption = _caption(detail, scores)
    return Table(columns=["", "kind", "n", *heads], rows=rows, caption=caption)


def _details_table(
    report: Report, scores: Sequence[Score], field: Literal["detail", "group"]
) -> Table:
    """Details or groups of one metric by systems."""
    names = [name for name in system_kinds(report) if find(scores, system=name)]
    found = {(getattr(score, field), score.system): score for score in scores}
    rows: list[list[Cell]] = []
    for label in _unique(getattr(score, field) for score in scores):
        own = [found.get((label, name)) for name in names]
        counts = [score.n for score in own if score is not None]
        rows.append([label, max(counts), *(_cell(score) for score in own)])
    detail = "" if field == "detail" else scores[0].detail
    about = f"{heading_of(report, scores[0].metric)}{f', {detail}' if detail else ''}"
    columns = ["", "n, at most", *map(_plain, names)]
    return Table(columns=columns, rows=rows, caption=_caption(about, scores))


def _caption(words: str, scores: Sequence[Score]) -> str:
    """What a table shows, and what its flags say."""
    flags = _unique(score.flag for score in scores if score.flag)
    meaning = f"{MARK} {'; '.join(flags)}" if flags else ""
    return ". ".join(part for part in (words, meaning) if part)


def _cell(score: Score | None) -> str:
    """A value with its interval and p value, and a mark where a flag belongs to it."""
    if score is None:
        return NOT_GIVEN
    p = "" if score.p_value is None else f", p {score.p_value:.2g}"
    return in_words(score.value, score.low, score.high) + p + (f" {MARK}" if score.flag else "")


def _plain(name: str) -> str:
    """A system's name as words."""
    return name.replace("_", " ")


def _unique(values: Iterable[str]) -> list[str]:
    """Each value once, in the order of its first appearance."""
    return list(dict.fromkeys(values))


def published_tables(published: Sequence[PublishedScore]) -> list[Table]:
    """Published scores as their paper prints them, after the reasons against comparing them."""
    codes = _unique(code for row in published for code in row.reasons)
    reasons: list[list[Cell]] = [
        [", ".join(_unique(row.metric for row in published if code in row.reasons)),
         ", ".join(_unique(str(row.table) for row in published if code in row.reasons)),
         REASONS[code]]
        for code in codes
    ]  # fmt: skip
    heads = ["numbers", "tables", "why they are not comparable"]
    tables = [Table(heads, reasons)] if reasons else []
    for key in dict.fromkeys((row.source, row.table) for row in published):
        rows = [row for row in published if (row.source, row.table) == key]
        metrics = _unique(row.metric for row in rows)
        found = {(row.model, row.group, str(row.metric)): f"{row.value:g}" for row in rows}
        lines = dict.fromkeys((row.model, row.group) for row in rows)
        cells = [[*line, *(found.get((*line, m), NOT_GIVEN) for m in metrics)] for line in lines]
        caption = f"Table {rows[0].table} of {rows[0].paper}, {rows[0].source}"
        tables.append(Table(["model", "group", *metrics], cells, caption))
    return tables


def markdown(report: Report) -> str:
    """The report as Markdown, with tables that papers can take."""
    parts = ["# Evaluation"]
    for verdict, heading in VERDICTS.items():
        told = [claim for claim in report.claims if claim.verdict == verdict]
        parts += [f"## {heading}"] * bool(told)
        parts += [
            f"- **{claim.sentence}** ({claim.system}) {'; '.join(claim.evidence)}. "
            f"*Criterion: {claim.criterion}*"
            for claim in told
        ]
    how = f"Brackets: intervals of {100 * report.config.level:g} %."
    parts += ["## How to read this", how, *report.notes]
    for section, heading in SECTION_WORDS.items():
        tables = section_tables(report, section)
        parts += [f"## {heading}"] * bool(tables) + [markdown_table(table) for table in tables]
    by_class = group_tables(report, "land_cover")
    parts += ["## By land cover"] * bool(by_class) + [markdown_table(table) for table in by_class]
    printed = [markdown_table(table) for table in published_tables(report.published)]
    parts += ["## Published elsewhere"] * bool(printed) + printed
    used = {score.metric for score in report.scores}
    parts += ["## Metrics"] + [
        f"- **{metric.label}**{f' ({metric.unit})' if metric.unit else ''}: {metric.formula}. "
        f"{metric.reference}"
        for key, metric in report.metrics.items()
        if key in used
    ]
    parts += ["## Made by", f"`{report.command}`"]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown, its caption in front."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = [f"| {' | '.join(_markdown_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join([*([table.caption, ""] if table.caption else []), *lines])


def _markdown_cell(cell: Cell) -> str:
    """Text of a cell, in which no sign ends it."""
    text = f"{cell:.3g}" if isinstance(cell, float) else UNKNOWN if cell is None else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
