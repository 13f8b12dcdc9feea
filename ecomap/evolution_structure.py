"""What stays of a start: fine structure in snow-free months, and the start that is asked for again.

Fine structure is brightness less its Gaussian mean: fields, rivers and ridges stay where they are
while seasons change the colour around them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from ecomap import panel, panel_draws
from ecomap.adherence import mean_score
from ecomap.claims import blocks_of
from ecomap.errors import ImageError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_steps import cautious
from ecomap.evolution_pairs import PairSets
from ecomap.metrics import pearson
from ecomap.paired import psnr
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.spectra import Mask, Pixels, check_pair, luma
from ecomap.tiles import ImageSet

FINE_SIGMA_PX = 3.0
"""Standard deviation of the Gaussian mean: what is wider than about 20 px is left out."""

MAX_SNOW_FRAC = 0.05
"""A real month with more snow is not snow-free: snow hides structure."""

EQUAL_DB = 58.92
"""PSNR of an image that differs from another by rounding to display values alone, 20 log10(255
sqrt(12)); no PSNR counts for more, so that means over equal images are defined."""

_OWN = "no paper: defined here"
METRICS: dict[str, Metric] = {
    "structure": Metric(
        label="Correlation of fine structure with the start",
        unit="",
        better="none",
        formula="mean over snow-free pairs of corr(high-pass brightness of image and of start)",
        reference=_OWN,
    ),
    "structure_share": Metric(
        label="Fine structure kept, as a share of the real months'",
        unit="",
        better="none",
        formula="structure of the system / structure of the real targets, on the same pairs",
        reference=_OWN,
    ),
    "identity_psnr_db": Metric(
        label="PSNR of a start that is asked for in its own month and climate",
        unit="dB",
        better="higher",
        formula=f"10 log10(255^2 / mean squared error), at most {EQUAL_DB} dB; mean over starts",
        reference=_OWN,
    ),
    "identity_gain_db": Metric(
        label="That PSNR less the autoencoder's own",
        unit="dB",
        better="higher",
        formula="mean over starts of the difference",
        reference=_OWN,
    ),
}


def fine_structure(rgb: Pixels, valid: Mask) -> NDArray[np.float64]:
    """Brightness less its Gaussian mean over valid pixels ``(H, W)``; 0 where not valid."""
    counts = valid.astype(np.float64)
    bright = luma(rgb)
    weight = ndimage.gaussian_filter(counts, FINE_SIGMA_PX, mode="nearest")
    mean = ndimage.gaussian_filter(bright * counts, FINE_SIGMA_PX, mode="nearest")
    coarse = np.divide(mean, weight, out=np.zeros_like(mean), where=weight > 0)
    return np.asarray(np.where(valid, bright - coarse, 0.0))


def structure_correlation(start: Pixels, image: Pixels, valid: Mask | None = None) -> float:
    """Correlation of the `fine_structure` of two images over valid pixels.

    Args:
        start: Display values ``(H, W, 3)``.
        image: The same shape.
        valid: Pixels that count in both, ``(H, W)``; all by default.

    Returns:
        In [-1, 1]; NaN where one is flat, or nothing is valid.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(start, image, valid)
    counts = np.ones(start.shape[:2], bool) if valid is None else valid
    if not counts.any():
        return float("nan")
    return pearson(*(fine_structure(one, counts)[counts] for one in (start, image)))


def structure_table(
    sets: PairSets,
    systems: Sequence[ImageSet],
    real: pd.DataFrame,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Correlations of the start of each snow-free pair with the real target and each system.

    Args:
        sets: Pairs.
        systems: Sets under the keys of pairs.
        real: Table of the real targets, with ``snow_frac`` and ``start_snow_frac``.
        progress: Called with (step, done, total).

    Returns:
        Index ``key``, a column `OBSERVED` and one a system. Pairs of which the start or the real
        target has more snow than `MAX_SNOW_FRAC`, or cannot be read, are left out.
    """
    is_free = (real["snow_frac"] <= MAX_SNOW_FRAC) & (real["start_snow_frac"] <= MAX_SNOW_FRAC)
    named = {images.name: images for images in (sets.real(), *systems)}
    where = {
        name: {tile.key: index for index, tile in enumerate(images.tiles)}
        for name, images in named.items()
    }
    wanted = [pair for pair in sets.pairs if bool(is_free.get(pair.tile.key, default=False))]
    rows: dict[str, dict[str, float]] = {}
    for done, pair in enumerate(wanted):
        key = pair.tile.key
        start = sets.history.read(pair.start)
        rows[key] = {}
        for name, images in named.items():
            if key not in where[name]:
                continue
            try:
                frame = images.read(where[name][key])
            except ImageError:  # measuring has counted it already
                continue
            valid = start.valid & frame.valid
            rows[key][name] = structure_correlation(start.rgb, frame.rgb, valid)
        if progress is not None:
            progress("structure", done + 1, len(wanted))
    index = pd.Index(rows, name="key")
    return pd.DataFrame(list(rows.values()), index=index, columns=list(named), dtype="float64")


def structure_scores(
    table: pd.DataFrame, real: pd.DataFrame, config: EvaluateConfig
) -> list[Score]:
    """Mean structure of each system, and as a share of the real months' on the same pairs.

    Args:
        table: From `structure_table`.
        real: Table of the real targets.
        config: Draws, level and seed.
    """
    blocks = blocks_of(real.loc[table.index])
    truth = table[OBSERVED].to_numpy(np.float64)
    scores = []
    for name in table:
        own = table[name].to_numpy(np.float64)
        known = np.isfinite(own) & np.isfinite(truth)
        base = Score(system=str(name), section="response", metric="structure", value=None, n=0)
        if not known.any():
            continue
        scores.append(mean_score(base, own[known], blocks[known].tolist(), config))
        if name != OBSERVED:
            scores.append(_share(str(name), own[known], truth[known], blocks[known], config))
    return [cautious(score) for score in scores]


def _share(
    name: str,
    own: NDArray[np.float64],
    truth: NDArray[np.float64],
    blocks: NDArray[np.str_],
    config: EvaluateConfig,
) -> Score:
    """Quotient of two means over the same pairs, with its interval over blocks."""
    codes = panel.codes(blocks)
    num_blocks = int(codes.max()) + 1
    draws = panel_draws.block_draws(num_blocks, config.num_draws, config.seed)
    first, second = (panel_draws.drawn_means(values, codes, draws) for values in (own, truth))
    drawn = np.divide(first, second, out=np.full_like(first, np.nan), where=second > 0)
    low, high = panel_draws.interval(drawn, num_blocks, config.level)
    is_defined = truth.mean() > 0
    return Score(
        system=name, section="response", metric="structure_share",
        value=own.mean() / truth.mean() if is_defined else None, low=low, high=high, n=len(own),
        num_blocks=num_blocks,
        flag="" if is_defined else "the real months have nothing in common with the start",
    )  # fmt: skip


def identity_scores(
    starts: ImageSet,
    returned: ImageSet,
    floor: ImageSet,
    config: EvaluateConfig,
    *,
    system: str,
) -> list[Score]:
    """PSNR of starts that were asked for again, beside the autoencoder's.

    Args:
        starts: Real frames.
        returned: What the system made of them, under their keys and in their order.
        floor: The frames through the autoencoder, likewise.
        config: Draws, level and seed.
        system: Name of the system.

    Raises:
        ImageError: If an image cannot be read.
    """
    found: dict[str, list[float]] = {"own": [], "floor": []}
    for index in range(len(starts.tiles)):
        real = starts.read(index)
        for name, images in (("own", returned), ("floor", floor)):
            value = psnr(real.rgb, images.read(index).rgb, real.valid)
            found[name].append(min(value, EQUAL_DB))
    own, kept = np.array(found["own"]), np.array(found["floor"])
    blocks = [tile.block or tile.key for tile in starts.tiles]
    rows = [
        (system, "identity_psnr_db", own),
        (floor.name, "identity_psnr_db", kept),
        (system, "identity_gain_db", own - kept),
    ]
    return [
        cautious(
            mean_score(
                Score(system=name, section="paired", metric=metric, value=None, n=0),
                values, blocks, config,
            )
        )
        for name, metric, values in rows
    ]  # fmt: skip
