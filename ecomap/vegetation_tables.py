"""Tables of tiles as vegetation statistics read them: usable rows, groups, systems side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecomap import panel, panel_draws
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.panel import Codes, Held, Values
from ecomap.schema import CLIMATE
from ecomap.scores import FEW_BLOCKS, OBSERVED, Score
from ecomap.tiles import group_masks

INDICES = ("gcc", "vari", "exg", "snow_frac", "ndvi", "evi", "ndsi")
"""Columns that are read as indices, where a table has them."""

GREENNESS = ("gcc", "vari", "exg", "ndvi", "evi")
"""Those of `INDICES` that grow with green vegetation."""

PLACE_ONLY, MONTH_ONLY = "place_only", "month_only"
"""Systems without climate that `systems_without_climate` makes."""

MIN_KNOWN_FRAC = 0.5
"""A climate variable that is known for a smaller share of the tiles is left out: all variables are
compared on the same tiles."""

Estimate = tuple[float | None, float | None, float | None, float | None]
"""Value, low, high, p value."""

REFUSED: Estimate = (None, None, None, None)


def index_columns(table: pd.DataFrame, names: Sequence[str] = INDICES) -> list[str]:
    """Those of some indices that a table has and that are known for any tile."""
    return [name for name in names if name in table and np.isfinite(table[name]).any()]


def usable_tables(
    observed: pd.DataFrame, systems: Mapping[str, pd.DataFrame], max_cloud_frac: float
) -> tuple[dict[str, pd.DataFrame], list[Score]]:
    """Tables without cloudy tiles, `OBSERVED` first, each tile with a place and a block.

    A tile is cloudy where its own record says so, or that of the observed tile of its key. A tile
    whose place is not known is a place of its own; a place lies in the block of its first tile.

    Returns:
        The tables, and a score for each reason to leave out tiles.

    Raises:
        RequestError: If keys repeat in a table, or a system has a name that is taken.
    """
    for name in (OBSERVED, PLACE_ONLY, MONTH_ONLY):
        if name in systems:
            raise RequestError(
                f"A system is named {name!r}, which has a meaning of its own here. Expected "
                "another name; give the set one."
            )
    cloudy_keys = set(observed.index[observed["cloud_frac"] > max_cloud_frac])
    tables, scores = {}, []
    for name, table in {OBSERVED: observed, **systems}.items():
        if not table.index.is_unique:
            key = table.index[table.index.duplicated()][0]
            raise RequestError(
                f"{name} has several tiles with key {key!r}. Expected one row a key; pair the "
                "sets again."
            )
        is_cloudy = (table["cloud_frac"] > max_cloud_frac) | table.index.isin(cloudy_keys)
        cloudy = is_cloudy.to_numpy(bool)
        kept = _with_places(table[~cloudy])
        tables[name] = kept
        numbers = {
            f"cloud_frac above {max_cloud_frac:g}": cloudy.sum(),
            "month not known: left out where months matter": kept["month"].isna().sum(),
            "not an observed tile: left out of comparisons": (
                ~kept.index.isin(observed.index)
            ).sum(),
        }
        scores += [
            Score(
                system=name,
                section="vegetation",
                metric="tiles_left_out",
                detail=reason,
                value=float(number),
                n=len(table),
            )
            for reason, number in numbers.items()
            if number
        ]
    return tables, scores


def _with_places(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a place and a block in every row."""
    filled = table.copy()
    keys = pd.Series(filled.index.astype(str), filled.index)
    filled["place"] = filled["place"].where(filled["place"].notna(), keys)
    filled["block"] = filled["block"].where(filled["block"].notna(), filled["place"])
    filled["block"] = filled.groupby("place")["block"].transform("first")
    return filled


def systems_without_climate(real: pd.DataFrame, indices: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Two systems that know observed means and nothing else.

    ``place_only``: each place's mean; ``month_only``: the mean of a calendar month over the places
    of a hemisphere. Both have seen the answers, so they flatter themselves. Where no place has two
    tiles, or no month is known, the one in question says nothing and is left out.
    """
    place_only, month_only = real.copy(), real.copy()
    seasons = season_series(real)
    for name in indices:
        place_only[name] = real.groupby("place")[name].transform("mean")
        month_only[name] = real.groupby(seasons)[name].transform("mean")
    found = {}
    if real["place"].duplicated().any():
        found[PLACE_ONLY] = place_only
    if seasons.notna().any():
        found[MONTH_ONLY] = month_only
    return found


def season_series(table: pd.DataFrame) -> "pd.Series[float]":
    """`ecomap.panel.season_codes` of each row, NaN where the month is not known."""
    known = table["month_index"].notna()
    found = panel.season_codes(table["month_index"].where(known, 0), table["lat"])
    return pd.Series(found, table.index, dtype="float64").where(known)


class Group(NamedTuple):
    """Tiles of one group, by system, `OBSERVED` among them."""

    kind: str
    name: str
    tables: dict[str, pd.DataFrame]

    @property
    def num_places(self) -> int:
        """Observed places."""
        return int(self.tables[OBSERVED]["place"].nunique())

    def score(
        self,
        system: str,
        metric: str,
        detail: str,
        estimate: Estimate = REFUSED,
        *,
        n: int,
        num_blocks: int | None = None,
        flag: str = "",
    ) -> Score:
        """A score of this group."""
        value, low, high, p_value = estimate
        return Score(
            system=system,
            section="vegetation",
            metric=metric,
            detail=detail,
            group_kind=self.kind,
            group=self.name,
            value=value,
            low=low,
            high=high,
            p_value=p_value,
            n=n,
            num_blocks=num_blocks,
            flag=flag,
        )

    def refusal(self, metrics: Sequence[str], config: EvaluateConfig) -> list[Score]:
        """One row a system and metric for a group with too few places for any of them."""
        flag = f"refused: {self.num_places} places, {config.min_places} needed"
        return [
            self.score(system, metric, "", n=len(table), flag=flag)
            for system, table in self.tables.items()
            for metric in metrics
            if system != OBSERVED or metric.startswith("climate")
        ]


def groups_of(tables: Mapping[str, pd.DataFrame], config: EvaluateConfig) -> Iterator[Group]:
    """All tiles, then those of each observed land cover where the config divides by it."""
    yield Group("all", "all", dict(tables))
    if "land_cover" not in config.groups:
        return
    masks = {name: group_masks(table, "land_cover") for name, table in tables.items()}
    for label in masks[OBSERVED]:
        members = {n: t[masks[n][label]] for n, t in tables.items() if label in masks[n]}
        yield Group("land_cover", label, members)


@dataclass(frozen=True)
class Batch:
    """Systems and indices that are known for the same tiles: computed together."""

    table: pd.DataFrame
    """Rows of any of the systems."""
    variables: tuple[str, ...] = ()
    """Climate variables, known for all rows."""
    columns: list[tuple[str, str]] = field(default_factory=list)
    """System and index."""
    values: list[Values] = field(default_factory=list)
    """That index of that system, ``(N,)``."""
    observed: list[Values] = field(default_factory=list)
    """Observed index of the same tiles, where the two are compared."""
    told: list[Values] = field(default_factory=list)
    """Climate ``(N, num_variables)`` of the system's own records, where the two are compared."""

    @property
    def places(self) -> Codes:
        """Place of each row."""
        return panel.codes(self.table["place"].astype(str))

    @property
    def blocks(self) -> Codes:
        """Block of each row."""
        return panel.codes(self.table["block"].astype(str))

    @property
    def months(self) -> Codes:
        """Calendar month of a hemisphere; only where all months are known."""
        return panel.season_codes(self.table["month_index"], self.table["lat"])

    def climate(self, lag: int = 0) -> Values:
        """Climate ``lag`` months before each row, ``(N, num_variables)``."""
        return climate_values(self.table, self.variables, lag)

    def draws(self, config: EvaluateConfig) -> Values:
        """Bootstrap draws of its blocks."""
        return panel_draws.block_draws(int(self.blocks.max()) + 1, config.num_draws, config.seed)

    def at(self, rows: Codes) -> "Batch":
        """Some of its rows."""
        parts = ([v[rows] for v in values] for values in (self.values, self.observed, self.told))
        return Batch(self.table.iloc[rows], self.variables, self.columns, *parts)


def climate_column(variable: str, lag: int) -> str:
    """Column of a climate variable some months before."""
    return variable if lag == 0 else f"{variable}_lag{lag}"


def climate_values(table: pd.DataFrame, variables: Sequence[str], lag: int) -> Values:
    """Climate ``(N, num_variables)`` some months before."""
    names = [climate_column(name, lag) for name in variables]
    return np.asarray(table[names].to_numpy(np.float64))


def known_variables(table: pd.DataFrame, lag: int) -> tuple[str, ...]:
    """Climate variables that are known for at least `MIN_KNOWN_FRAC` of the tiles."""
    names = {name: climate_column(name, lag) for name in CLIMATE}
    return tuple(
        name
        for name, column in names.items()
        if column in table and len(table) and np.isfinite(table[column]).mean() >= MIN_KNOWN_FRAC
    )


def num_varying_places(batch: Batch, held: Held, x: Values) -> int:
    """Places in which something is left of ``x`` ``(N,)`` once controlled."""
    varying = np.abs(held.residuals(x)) > 1e-6 * x.std()
    return len(np.unique(batch.places[held.rows][varying]))


def caution(value: float | None, num_blocks: int) -> str:
    """What a reader of a number must know."""
    if value is None or np.isnan(value):
        return "undefined: the index is constant once controlled"
    if num_blocks < 2:
        return "one block: no interval"
    return f"{num_blocks} blocks: the interval is too narrow" if num_blocks < FEW_BLOCKS else ""


def estimates(
    values: Values, drawn: Values, num_blocks: int, level: float, p: Values | None = None
) -> list[Estimate]:
    """Values ``(m,)`` with intervals of their draws ``(draws, m)``; an undefined one has none."""
    rows: list[Estimate] = []
    for number, value in enumerate(values):
        low, high = panel_draws.interval(drawn[:, number], num_blocks, level)
        if np.isnan(value):
            low = high = float("nan")
        rows.append((float(value), low, high, None if p is None else float(p[number])))
    return rows
