"""Gains of a system over its rivals on the same pairs, and the goals that they are held against.

A gain is positive where the judged system is better. It is decided only over
`ecomap.scores.FEW_BLOCKS` blocks of places or more, as all claims are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap import panel, panel_draws
from ecomap.claims import Claim, Verdict, blocks_of, in_words
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evolution_climatology import CLASS_INDEX
from ecomap.evolution_pairs import PERSISTENCE
from ecomap.paired import METRICS as PAIR_METRICS
from ecomap.scores import FEW_BLOCKS, OBSERVED, Score

Values = NDArray[np.float64]

GENERATED = "generated"
BEST_RIVAL = "best rival"

INDICES = ("gcc", "snow_frac")
"""Greenness and snow of land, as `ecomap.measure.index_measures` names them."""

RIVALS = (
    *(PERSISTENCE, "class_month_mean", CLASS_INDEX, "climate_analogue"),
    *("previous_year", "place_month_mean"),
)
"""Whom a model must beat: all of these that can be made."""

MIN_SERVED = 0.95
"""Share of the system's pairs that a rival must serve to be the best of all."""

LEAST_SHARE = 0.3
"""Part of the best rival's error that must go, in greenness and in snow."""
LEAST_PSNR_GAIN_DB = 2.0
"""Over persistence."""
LEAST_STRUCTURE = 0.95
"""Of the real months' correlation of fine structure with the start."""
LEAST_IDENTITY_DB = -1.0
"""PSNR of a start that is asked for again, less that of the autoencoder alone."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better one system is than a rival, on pairs that both serve."""

    measure: str
    """Metric, and the index where it is one of an index, such as ``index_rmse gcc``."""
    system: str
    rival: str
    own: float
    other: float
    """Values of both."""
    gain: float
    """Difference in the unit of the measure; positive where the system is better."""
    low: float | None
    high: float | None
    share: float | None
    """Gain as a share of the rival's value, for errors."""
    share_low: float | None
    share_high: float | None
    n: int
    num_blocks: int

    @property
    def is_decided(self) -> bool:
        """Whether there are enough blocks to decide anything."""
        return self.low is not None and self.num_blocks >= FEW_BLOCKS

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """``better`` or ``worse`` where the interval lies on one side of 0, over enough blocks."""
        if not self.is_decided or self.low is None or self.high is None:
            return "undecided"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


@dataclass(frozen=True)
class Question:
    """One measure of gains: a mean over pairs, or the root of one."""

    name: str
    column: str
    index: bool = False
    """Whether the column is an index, whose error against the real one is meant."""
    is_root: bool = False
    higher_is_better: bool = False

    def values(self, table: pd.DataFrame, real: pd.DataFrame) -> Values:
        """What is averaged, by pair of the real table; NaN where the system has none."""
        own = table[self.column].reindex(real.index).to_numpy(np.float64)
        if self.index:
            own = np.abs(own - real[self.column].to_numpy(np.float64))
        own = np.where(np.isfinite(own), own, np.nan)
        return np.asarray(own**2 if self.is_root else own)

    def finish(self, means: Values) -> Values:
        """From means to the measure."""
        return np.sqrt(means) if self.is_root else means


QUESTIONS = (
    *(
        Question(name, name, higher_is_better=PAIR_METRICS[name].better == "higher")
        for name in ("psnr_db", "ssim", "ms_ssim", "perceptual", "spectrum_error", "edge_f1")
    ),
    *(Question(f"index_rmse {one}", one, index=True, is_root=True) for one in INDICES),
    *(Question(f"index_mae {one}", one, index=True) for one in INDICES),
)
"""What gains are given for; errors of both indices among them."""

IMAGE_MEASURES = ("psnr_db", "ssim", "ms_ssim", "perceptual", "spectrum_error", "edge_f1")


def gains(
    tables: Mapping[str, pd.DataFrame], config: EvaluateConfig, *, system: str = GENERATED
) -> list[Gain]:
    """Gains of one system over each rival, and over the best rival of each measure.

    The best rival is sought again in each draw of the bootstrap, so its row favours the rivals.

    Args:
        tables: Measured tables by system, the real targets under `OBSERVED`.
        config: Draws, level and seed.
        system: Who is judged; without it there are no gains.
    """
    real = tables[OBSERVED]
    rivals = [name for name in RIVALS if name in tables and name != system]
    if system not in tables or not rivals:
        return []
    found = []
    for question in (one for one in QUESTIONS if one.column in tables[system]):
        having = [name for name in rivals if question.column in tables[name]]
        values = {n: question.values(tables[n], real) for n in (system, *having)}
        for name in having:
            found += _gain(question, values, system, [name], real, config)
        own = np.isfinite(values[system])
        whole = [n for n in having if own.any() and np.isfinite(values[n])[own].mean() > MIN_SERVED]
        found += _gain(question, values, system, whole, real, config, label=BEST_RIVAL)
    return found


def _gain(
    question: Question,
    values: Mapping[str, Values],
    system: str,
    rivals: Sequence[str],
    real: pd.DataFrame,
    config: EvaluateConfig,
    *,
    label: str = "",
) -> list[Gain]:
    """Gain over the best of some rivals; none where no pair is served by all."""
    known = np.logical_and.reduce([np.isfinite(values[n]) for n in (system, *rivals)])
    if not rivals or not known.any():
        return []
    blocks = panel.codes(blocks_of(real)[known])
    num_blocks = int(blocks.max()) + 1
    draws = panel_draws.block_draws(num_blocks, config.num_draws, config.seed)
    draws = np.vstack([np.ones((1, num_blocks)), draws])
    drawn = {
        name: question.finish(panel_draws.drawn_means(values[name][known], blocks, draws))
        for name in (system, *rivals)
    }
    others = np.stack([drawn[name] for name in rivals])
    best = others.max(0) if question.higher_is_better else others.min(0)
    sign = 1 if question.higher_is_better else -1
    gain = sign * (drawn[system] - best)
    share = np.divide(gain, best, out=np.full_like(gain, np.nan), where=best > 0)
    if question.higher_is_better:
        share = np.full_like(gain, np.nan)
    ends = [panel_draws.interval(one[1:], num_blocks, config.level) for one in (gain, share)]
    first = rivals[int(others[:, 0].argmax() if sign > 0 else others[:, 0].argmin())]
    return [
        Gain(
            measure=question.name, system=system,
            rival=f"{label}: {first}" if label else first,
            own=float(drawn[system][0]), other=float(best[0]), gain=float(gain[0]),
            low=_number(ends[0][0]), high=_number(ends[0][1]), share=_number(share[0]),
            share_low=_number(ends[1][0]), share_high=_number(ends[1][1]),
            n=int(known.sum()), num_blocks=num_blocks,
        )
    ]  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def goals(
    found: Sequence[Gain], scores: Sequence[Score], *, system: str = GENERATED
) -> list[Claim]:
    """Judge what a model of evolution must show.

    Args:
        found: From `gains`.
        scores: Of `ecomap.evolution_structure`, for structure and for the start that comes back.
        system: Who is judged.
    """
    best = {one.measure: one for one in found if one.rival.startswith(BEST_RIVAL)}
    copied = {one.measure: one for one in found if one.rival == PERSISTENCE}
    claimed = [
        _goal(
            f"{words}_goal", system,
            f"The error of {words} is at least {LEAST_SHARE:.0%} below that of the best rival.",
            None if one is None else (one.share, one.share_low, one.share_high, one.num_blocks),
            LEAST_SHARE, "" if one is None else f"{one.rival}, {one.own:.4g} v {one.other:.4g}",
        )
        for words, one in (
            ("greenness", best.get("index_rmse gcc")), ("snow", best.get("index_rmse snow_frac"))
        )
    ]  # fmt: skip
    psnr = copied.get("psnr_db")
    claimed.append(
        _goal(
            "psnr_goal", system,
            f"PSNR is at least {LEAST_PSNR_GAIN_DB:g} dB above that of the copied start.",
            None if psnr is None else (psnr.gain, psnr.low, psnr.high, psnr.num_blocks),
            LEAST_PSNR_GAIN_DB, "" if psnr is None else f"{psnr.own:.4g} v {psnr.other:.4g} dB",
        )
    )  # fmt: skip
    claimed.append(_better_in_all([copied[m] for m in IMAGE_MEASURES if m in copied], system))
    for metric, least, sentence in (
        ("structure_share", LEAST_STRUCTURE, "Fine structure of snow-free months is kept: its "
         f"correlation with the start is at least {LEAST_STRUCTURE:g} of the real months'. That of "
         "a copy is too."),
        ("identity_gain_db", LEAST_IDENTITY_DB, "The same month and climate give back the start: "
         f"PSNR is at most {-LEAST_IDENTITY_DB:g} dB below the autoencoder's own. It is built in."),
    ):  # fmt: skip
        row = next((s for s in scores if (s.system, s.metric, s.group) == (system, metric, "all")),
                   None)  # fmt: skip
        known = None if row is None else (row.value, row.low, row.high, row.num_blocks or 0)
        claimed.append(_goal(f"{metric}_goal", system, sentence, known, least, ""))
    return claimed


Estimate = tuple[float | None, float | None, float | None, int]
"""Value, low, high, number of blocks."""


def _goal(
    key: str, system: str, sentence: str, found: Estimate | None, least: float, more: str
) -> Claim:
    """A claim that a number reaches a bound."""
    verdict: Verdict = "undecided"
    evidence = ["Not measured"]
    if found is not None:
        value, low, high, num_blocks = found
        told = f"{in_words(value, low, high)}, {num_blocks} blocks"
        evidence = [told + (f" ({more})" if more else "")]
        if low is not None and high is not None and num_blocks >= FEW_BLOCKS:
            verdict = (
                "supported" if low >= least else "not supported" if high < least else "undecided"
            )
    return Claim(
        key=key, system=system, sentence=sentence, verdict=verdict, evidence=tuple(evidence),
        criterion=f"The whole interval lies at {least:g} or above, over {FEW_BLOCKS} blocks or "
        "more; not so where all of it lies below.",
    )  # fmt: skip


def _better_in_all(found: Sequence[Gain], system: str) -> Claim:
    """The claim that every image metric is better than that of the copied start."""
    verdicts = {one.verdict for one in found}
    verdict: Verdict = "undecided"
    if "worse" in verdicts:
        verdict = "not supported"
    elif verdicts == {"better"} and len(found) == len(IMAGE_MEASURES):
        verdict = "supported"
    evidence = tuple(
        f"{one.measure}: {one.own:.4g} v {one.other:.4g}, gain "
        f"{in_words(one.gain, one.low, one.high)}"
        for one in found
    )
    return Claim(
        key="image_metrics_goal", system=system, verdict=verdict,
        sentence="Every image metric is better than that of the copied start.",
        criterion=f"The interval of each gain lies above 0 over {FEW_BLOCKS} blocks or more; not "
        "so where one lies below.", evidence=evidence or ("Not measured",),
    )  # fmt: skip
