"""Sentences that a report supports or does not, each by a criterion that is stated beforehand.

A claim says what would have to hold, whether the scores show it, and the numbers that decide. What
the scores cannot decide is said to be undecided, never supported.

Longer than the budget because each claim stands with its criterion and its arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.forecast import OTHER_PLACES
from ecomap.metrics import bootstrap_interval
from ecomap.schema import CLIMATE
from ecomap.scores import FEW_BLOCKS, OBSERVED, Score, find

Verdict = Literal["supported", "not supported", "undecided"]

GREENNESS = "gcc"
"""Index that claims of greenness are about: every colour image has it."""

SHUFFLED = "shuffled_climate"
REAL = "real_vs_real"

ROUNDING = 1e-12
"""Smaller numbers are rounding errors of float64 sums of values near 1."""

MIN_BLOCKS = 6
"""Fewest blocks with which a two-sided signed-rank test can reach p < 0.05."""

SIZE_FACTOR = 2.0
"""Slopes have the same size where the interval of their ratio lies within this factor of 1."""

SIZE_CONTROLS = ("given place and month", "within place")
"""What is held fixed when slopes are compared; the first that was measured counts."""

FOLLOWING = {
    "follows_climate": (
        "anomaly_pearson_given_place_and_month",
        "Greenness follows the climate that is given: it is above and below the mean of place and "
        "calendar month where the real one is, and not so under another place's climate.",
        "less the means of place and calendar month",
    ),
    "follows_weather": (
        "anomaly_pearson_deseasonalised",
        "Greenness follows the weather that is given: it is above and below what the place has in "
        "the same month of other years where the real one is, and not so under another's.",
        "less the mean of the place in the same calendar month of several years",
    ),
}
"""Claim -> metric of the anomalies, the sentence, and what was taken out."""

SIMPLE_METHODS = {
    "copying": ("persistence", "previous_year"),
    "climatology": ("class_month_mean", "place_month_mean"),
    "analogue": ("climate_analogue",),
}
"""Baselines that a generator must beat, by the claim that it does."""

KNOWING_NO_PLACE = ("class_month_mean", "climate_analogue")
"""Baselines whose anomalies stand beside a system's: they know a place by its class and climate."""

SIMPLE_WORDS = {
    "copying": "copying an earlier image of the place",
    "climatology": "the mean image of the month",
    "analogue": "a real image of the place with the most similar climate",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence about one system, and what the numbers say to it."""

    key: str
    system: str
    sentence: str
    """What is claimed, in plain words."""
    criterion: str
    """What must hold for it."""
    verdict: Verdict
    evidence: tuple[str, ...]
    """The numbers that decide, or what is missing; at least one line."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Values of two systems on the same images."""

    mean_a: float | None
    mean_b: float | None
    difference: float | None
    """Mean of b minus a, in the unit of the values."""
    low: float | None
    high: float | None
    """Interval over blocks; None where there are fewer than two."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test of the blocks' mean differences against 0."""
    n: int
    """Images with a finite value of both."""
    num_blocks: int
    num_left_out: int
    """Images without."""

    @property
    def sign(self) -> int | None:
        """-1 or 1 where b is below or above a, 0 where the interval holds 0.

        None with fewer than `MIN_BLOCKS` blocks: intervals over so few are too narrow.
        """
        if self.low is None or self.high is None or self.num_blocks < MIN_BLOCKS:
            return None
        return int(self.low > 0) - int(self.high < 0)


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    blocks: Sequence[str] | NDArray[np.str_],
    *,
    num_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Test whether b differs from a on the same images.

    Neighbouring images are not independent, so whole blocks are drawn for the interval, and the
    signed-rank test sees one number a block.

    Args:
        a: Values ``(N,)``.
        b: Values of the same images in the same order.
        blocks: Independent unit that each image belongs to.
        num_draws: Bootstrap draws.
        level: Probability of the interval.
        seed: Decides the draws.

    Raises:
        RequestError: If the three differ in length.

    References:
        Wilcoxon (1945), Individual Comparisons by Ranking Methods,
        https://doi.org/10.2307/3001968
    """
    x, y, units = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(blocks, str)
    if not x.shape == y.shape == units.shape or x.ndim != 1:
        raise RequestError(
            f"A paired test got {x.shape} and {y.shape} values in {units.shape} blocks. Give one "
            "of each for every image."
        )
    kept = np.isfinite(x) & np.isfinite(y)
    x, y, units = x[kept], y[kept], units[kept]
    if not len(x):
        return PairedTest(mean_a=None, mean_b=None, difference=None, low=None, high=None,
                          p_value=None, n=0, num_blocks=0, num_left_out=len(kept))  # fmt: skip
    change = y - x
    low, high = bootstrap_interval(
        change, units, lambda drawn: float(drawn.mean()), num=num_draws, seed=seed, level=level
    )
    by_block = pd.Series(change).groupby(units).mean().to_numpy()
    has_interval = np.isfinite(low)
    return PairedTest(
        mean_a=float(x.mean()),
        mean_b=float(y.mean()),
        difference=float(change.mean()),
        low=low if has_interval else None,
        high=high if has_interval else None,
        p_value=float(stats.wilcoxon(by_block).pvalue) if by_block.any() else None,
        n=len(x),
        num_blocks=len(by_block),
        num_left_out=int((~kept).sum()),
    )


def blocks_of(table: pd.DataFrame) -> NDArray[np.str_]:
    """Independent unit of each row of a `tiles.tile_table`: its block, its own key without one."""
    keys = table.index.to_series().astype(str)
    return np.asarray(table["block"].where(table["block"].notna(), "image " + keys), str)


def in_words(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number with its interval; what is left of a sum that should be 0 is shown as 0.

    Example:
        >>> in_words(0.12345, 0.1, 0.2), in_words(-2.0), in_words(None)
        ('0.123 [0.1, 0.2]', '-2', 'n/a')
    """
    if value is None:
        return "n/a"
    value, low, high = (
        number if number is None or abs(number) > ROUNDING else 0.0 for number in (value, low, high)
    )
    reach = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{reach}"


def claims(
    scores: Sequence[Score],
    tables: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
    *,
    system: str = "generated",
) -> list[Claim]:
    """Judge all claims about one system.

    Args:
        scores: All scores of a report.
        tables: Measured table of each set of images by its name, index ``key``; the real images'
            under `OBSERVED`.
        config: Settings of the intervals.
        system: Name of the judged system.

    Returns:
        Claims in the order in which they are told.
    """
    return [
        *(_follows(scores, system, key) for key in FOLLOWING),
        *(_beats(kind, tables, config, system) for kind in SIMPLE_METHODS),
        *_response_sizes(scores, system),
        _looks_real(scores, system),
        _has_skill(scores, system),
    ]


def _follows(scores: Sequence[Score], system: str, key: str) -> Claim:
    """Anomalies of greenness, against those under another place's climate."""
    metric, sentence, less = FOLLOWING[key]
    own, null = _row(scores, system, metric), _row(scores, SHUFFLED, metric)
    verdict: Verdict = "undecided"
    evidence = [_said("Correlation of the anomalies", own)]
    if own is not None and own.low is not None:
        evidence.append(_said("with another place's climate", null))
        simple = [(name, _row(scores, name, metric)) for name in KNOWING_NO_PLACE]
        evidence += [
            _said(name.replace("_", " "), row)
            for name, row in simple
            if row is not None and row.value is not None
        ]
        above_null: bool | None = None
        if null is not None and null.value is not None:
            bound = null.value if null.high is None else null.high
            above_null = own.low > bound
        if not _decides(own):
            pass
        elif own.low <= 0 or above_null is False:
            verdict = "not supported"
        elif above_null:
            verdict = "supported"
    return Claim(
        key=key,
        system=system,
        sentence=sentence,
        criterion=f"The interval of the correlation of generated with observed greenness, {less}, "
        f"lies above 0 over {FEW_BLOCKS} blocks or more, and above the interval of images made "
        "with another place's climate; undecided where no such images were made.",
        verdict=verdict,
        evidence=tuple(evidence),
    )


def _beats(
    kind: str, tables: Mapping[str, pd.DataFrame], config: EvaluateConfig, system: str
) -> Claim:
    """Absolute greenness error against that of simple methods, on the same images."""
    tests = {
        name: greenness_test(tables, name, system, config)
        for name in SIMPLE_METHODS[kind]
        if all(GREENNESS in tables.get(one, ()) for one in (name, system, OBSERVED))
    }
    signs = {test.sign for test in tests.values()}
    evidence = [
        f"{name.replace('_', ' ')}: error {in_words(test.mean_b)} against {in_words(test.mean_a)}, "
        f"difference {in_words(test.difference, test.low, test.high)} on {test.n} images in "
        f"{test.num_blocks} blocks"
        for name, test in tests.items()
    ]
    absent = [name.replace("_", " ") for name in SIMPLE_METHODS[kind] if name not in tests]
    evidence += [f"{name}: no images to compare with" for name in absent]
    verdict: Verdict = "undecided"
    if signs & {0, 1}:
        verdict = "not supported"
    elif signs == {-1}:
        verdict = "supported"
    return Claim(
        key=f"better_than_{kind}",
        system=system,
        sentence=f"Greenness is nearer to the real one than that of {SIMPLE_WORDS[kind]}.",
        criterion="The interval of the difference of absolute errors of mean greenness on the same "
        f"images lies below 0, for every such baseline that could be made, over {MIN_BLOCKS} "
        "blocks at least.",
        verdict=verdict,
        evidence=tuple(evidence),
    )


def greenness_test(
    tables: Mapping[str, pd.DataFrame], baseline: str, system: str, config: EvaluateConfig
) -> PairedTest:
    """Absolute error of greenness of a system (b) against that of a baseline (a).

    Tiles whose record has more cloud than ``config.max_cloud_frac`` are left out.
    """
    real = tables[OBSERVED]
    real = real[~(real["cloud_frac"] > config.max_cloud_frac)]
    keys = real.index.intersection(tables[system].index).intersection(tables[baseline].index)
    truth = real.loc[keys, GREENNESS]
    own, other = ((tables[name].loc[keys, GREENNESS] - truth).abs() for name in (system, baseline))
    return paired_test(
        other,
        own,
        blocks_of(real.loc[keys]),
        num_draws=config.num_draws,
        level=config.level,
        seed=config.seed,
    )


def _response_sizes(scores: Sequence[Score], system: str) -> list[Claim]:
    """Slope of greenness on each climate variable, generated over observed."""
    claimed = []
    for variable in CLIMATE:
        details = [f"{GREENNESS} ~ {variable} lag 0 | {control}" for control in SIZE_CONTROLS]
        rows = [_row(scores, system, "slope_ratio", detail) for detail in details]
        known = [row for row in rows if row is not None]
        if known:
            row = next((row for row in known if row.value is not None), known[0])
            observed = _row(scores, OBSERVED, "climate_slope", row.detail)
            claimed.append(_response_size(row, observed, system, variable))
    return claimed or [_response_size(None, None, system, None)]


def _response_size(
    row: Score | None, observed: Score | None, system: str, variable: str | None
) -> Claim:
    """One slope; undecided where the observed one is not told from 0."""
    driver = "climate" if variable is None else CLIMATE[variable].label.lower()
    control = "" if row is None else f", {row.detail.partition(' | ')[2]},"
    evidence = [_said("Generated slope over observed slope", row)]
    verdict: Verdict = "undecided"
    is_flat = False
    if observed is not None and observed.low is not None and observed.high is not None:
        is_flat = observed.low <= 0 <= observed.high
        evidence.append(_said("observed slope", observed))
        evidence += ["which is not told from 0"] * is_flat
    if row is not None and row.low is not None and row.high is not None:
        if is_flat or not _decides(row):
            pass
        elif row.low >= 1 / SIZE_FACTOR and row.high <= SIZE_FACTOR:
            verdict = "supported"
        elif row.high < 1 / SIZE_FACTOR or row.low > SIZE_FACTOR:
            verdict = "not supported"
    return Claim(
        key="response_size" if variable is None else f"response_size_{variable}",
        system=system,
        sentence=f"The slope of greenness on {driver} of the month{control} has the observed "
        f"size, within a factor of {SIZE_FACTOR:g}.",
        criterion=f"The whole interval of the ratio of slopes lies between {1 / SIZE_FACTOR:g} and "
        f"{SIZE_FACTOR:g} over {FEW_BLOCKS} blocks or more, and the observed slope is itself told "
        "from 0; not so where the whole interval lies outside.",
        verdict=verdict,
        evidence=tuple(evidence),
    )


def _looks_real(scores: Sequence[Score], system: str) -> Claim:
    """Fréchet distance against that between real images, in every feature space."""
    pairs = [
        (row, _row(scores, REAL, "frechet_distance", row.detail))
        for row in find(scores, system=system, metric="frechet_distance", group_kind="all")
    ]
    verdicts = {_reaches(row, floor) for row, floor in pairs}
    evidence = tuple(
        f"{row.detail}: {_said('distance', row)}; {_said('real against real', floor)}"
        for row, floor in pairs
    )
    verdict: Verdict = "undecided"
    if "not supported" in verdicts:
        verdict = "not supported"
    elif verdicts == {"supported"}:
        verdict = "supported"
    return Claim(
        key="looks_real",
        system=system,
        sentence="As a set, the images are as realistic as real images of other places.",
        criterion="In every feature space the interval of the Fréchet distance to the real images "
        "ends where that of other real images does, or before; not so where it begins beyond it in "
        "any. Distances fall with the number of images, so where "
        "the numbers differ only a verdict that stands in spite of that counts.",
        verdict=verdict,
        evidence=evidence or ("No distances were measured",),
    )


def _reaches(row: Score, floor: Score | None) -> Verdict:
    """Whether a distance comes down to its floor; fewer images make a distance larger."""
    if row.low is None or floor is None or floor.value is None:
        return "undecided"
    top = floor.value if floor.high is None else floor.high
    if row.low > top:
        return "not supported" if floor.n <= row.n else "undecided"
    is_below = row.high is not None and row.high <= top and floor.n >= row.n
    return "supported" if is_below and _decides(row) else "undecided"


def _has_skill(scores: Sequence[Score], system: str) -> Claim:
    """Share of places and classes where the forecast beats climatology."""
    row = _row(scores, system, "forecast_outperformance")
    verdict: Verdict = "undecided"
    if row is not None and row.low is not None and _decides(row) and OTHER_PLACES not in row.flag:
        verdict = "supported" if row.low > 0.5 else "not supported"
    return Claim(
        key="forecast_skill",
        system=system,
        sentence="Monthly greenness of a place is forecast better than by climatology, in the "
        "sense of GreenEarthNet.",
        criterion="The interval of the share of places where at least three of four scores gain on "
        "the climatology of its own past years (RMSE, normalised NSE, R², |bias|, each by "
        "GreenEarthNet's thresholds, which are made for NDVI) lies above one half.",
        verdict=verdict,
        evidence=(_said("Share of places", row),),
    )


def _decides(row: Score | None) -> bool:
    """Whether a score has an interval over enough blocks to decide a claim."""
    if row is None or row.low is None or row.high is None:
        return False
    return row.num_blocks is None or row.num_blocks >= FEW_BLOCKS


def _row(
    scores: Sequence[Score], system: str, metric: str, detail: str | None = None
) -> Score | None:
    """The score over all images, of greenness where no other detail is given."""
    rows = find(scores, system=system, metric=metric, group_kind="all")
    if detail is not None:
        return next((row for row in rows if row.detail == detail), None)
    return next((row for row in rows if row.detail.split(",")[0] == GREENNESS), None)


def _said(words: str, row: Score | None) -> str:
    """A score in words, with what it rests on and why it is missing."""
    if row is None:
        return f"{words}: not measured"
    blocks = "" if row.num_blocks is None else f", {row.num_blocks} blocks"
    flag = f"; {row.flag}" if row.flag else ""
    return f"{words} {in_words(row.value, row.low, row.high)} (n = {row.n}{blocks}{flag})"
