"""Response of a model to climate: what changes when nothing else does, beside what is observed.

A case is one tile; it is made several times with the same noise under graded changes of one climate
variable, each sustained over all months that the model sees.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ecomap.climate import apply_changes, parse_change
from ecomap.errors import ImageError, SchemaError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.image_store import ImageMaker, ImageRequest, KeptImages, as_made
from ecomap.indices import land_indices
from ecomap.places import choose_cases
from ecomap.response_cases import RESPONSES, Response
from ecomap.response_statistics import (
    Curves,
    Row,
    across_places,
    case_values,
    cases_by_class,
    scatter_of,
    scatter_of_cases,
)
from ecomap.schema import CLIMATE
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.tiles import ImageSet, ScoredTile, tile_of

GENERATED = "generated"
SUSTAINED, ACROSS, WITHIN = "sustained change", "across places of a class", "within places"
"""Ends of `Score.detail`: where a slope comes from."""

CASE_SEEDS = 2_000_000
"""Keeps the seeds of cases apart from those of `ecomap.evaluate_bundle`."""

MAX_OBSERVED = 3000
"""Real tiles that observed slopes are read from, place by place."""


_OWN = "no paper: defined here"
METRICS: dict[str, Metric] = {
    "response_slope": Metric(
        label="Slope of an index against climate",
        unit="index per unit of climate",
        better="none",
        formula="sum(dx dy) / sum(dx dx), d: minus the mean of the case, or of the stratum",
        reference="Wooldridge (2010), sec. 10.5, https://mitpress.mit.edu/9780262232586",
    ),
    "response_ratio": Metric(
        label="Generated slope over observed slope across places of a class",
        unit="",
        better="one",
        formula="response_slope generated / response_slope observed",
        reference=_OWN,
    ),
    "response_expected_sign": Metric(
        label="Cases that respond with the expected sign",
        unit="fraction of cases",
        better="higher",
        formula="mean(range(y) >= tolerance and sign(slope) == expected)",
        reference=_OWN,
    ),
    "response_opposite_sign": Metric(
        label="Cases that respond with the opposite sign",
        unit="fraction of cases",
        better="lower",
        formula="mean(range(y) >= tolerance and sign(slope) != expected)",
        reference=_OWN,
    ),
    "response_monotonicity": Metric(
        label="Cases whose index follows all doses in order",
        unit="fraction of cases",
        better="higher",
        formula="mean(response has expected sign and no step back reaches the tolerance)",
        reference=_OWN,
    ),
    "response_rank": Metric(
        label="Rank correlation of dose and index, expected sign positive",
        unit="",
        better="higher",
        formula="mean over cases of expected sign * Spearman(dose, index); 0 without any change",
        reference="Spearman (1904), https://doi.org/10.2307/1412159",
    ),
    "response_curve": Metric(
        label="Index under a change minus index without it",
        unit="index",
        better="none",
        formula="mean over cases of y(change) - y(no change)",
        reference=_OWN,
    ),
}


def response_scores(
    maker: ImageMaker,
    pool: Sequence[ScoredTile],
    history: ImageSet,
    config: EvaluateConfig,
    *,
    num_cases: int,
    progress: Callable[[str], None] | None = None,
) -> list[Score]:
    """Generated and observed responses to each question of `RESPONSES`.

    Args:
        maker: Generator; the images go to ``responses/NAME`` in its folder.
        pool: Tiles to choose cases from, such as `ecomap.places.Targets.pool`.
        history: Real images of any split, for observed slopes.
        config: Draws, seed, level, clouds, least number of places.
        num_cases: Cases of each response; all if there are fewer.
        progress: Called with one line about each stage.

    Returns:
        Rows of the system "generated" with `SUSTAINED`, and of `OBSERVED` with `ACROSS` (against
        the same climate as the generated, inside land cover and calendar month) and `WITHIN`
        (against the month's own climate, inside a place) at the end of ``detail``.
    """
    say = progress or (lambda _: None)
    scores: list[Score] = []
    for response in RESPONSES:
        say(f"response: {response.name}")
        fitting = [tile for tile in pool if response.fits(tile)]
        chosen = choose_cases(fitting, num_cases, seed=config.seed)
        curves = make_curves(response, chosen, maker, seed=config.seed)
        real = read_real(response, history, config)
        scores += generated_scores(response, curves, config)
        scores += observed_scores(response, real, config)
        detail = f"{response.index} ~ {response.variable} | {SUSTAINED}"
        row = Row(GENERATED, detail, "all", curves, config)
        scores.append(row.ratio(scatter_of_cases(curves), across_places(real)))
    return scores


def make_curves(
    response: Response, cases: Sequence[ScoredTile], maker: ImageMaker, *, seed: int
) -> Curves:
    """Make each case under each change, with one noise a case, and read the index."""
    variable = CLIMATE[response.variable]
    changes = [{variable.name: parse_change(text, variable)} for text in response.changes]
    left_out: Counter[str] = Counter()
    kept, told, requests = list[ScoredTile](), list[ScoredTile](), list[ImageRequest]()
    for turn, case in enumerate(cases):
        if case.record is None:
            left_out["without a record"] += 1
            continue
        try:
            records = [apply_changes(case.record, change) for change in changes]
        except SchemaError:
            left_out["changed beyond what is possible on Earth"] += 1
            continue
        kept.append(case)
        told += [tile_of(record) for record in records]
        requests += [
            ImageRequest(
                key=f"{case.key} {text}", record=as_made(record, maker.card),
                seed=seed + CASE_SEEDS + turn, doors=maker.card.doors,
            )
            for text, record in zip(response.changes, records, strict=True)
        ]  # fmt: skip
    images = KeptImages(
        name=GENERATED, kind="generated", description=response.rule, tiles=told,
        paths=maker(f"responses/{response.name}", requests),
    )  # fmt: skip
    shape = (len(kept), len(changes))
    index = np.array([_read(response, images, i) for i in range(len(told))]).reshape(shape)
    level = np.array([response.level(tile) for tile in told]).reshape(shape)
    is_read = np.isfinite(index).all(1)
    left_out += Counter({"with an image that cannot be read": int((~is_read).sum())})
    whole = [case for case, counts in zip(kept, is_read, strict=True) if counts]
    return Curves(whole, level[is_read], index[is_read], +left_out)


def _read(response: Response, images: ImageSet, position: int) -> float:
    """Index of an image over its land; NaN for a black one, or one that cannot be scored."""
    try:
        frame = images.read(position)
    except ImageError:
        return float("nan")
    found = land_indices(frame.rgb, frame.valid)
    return found.greenness if response.index == "gcc" else found.snow_frac


def read_real(response: Response, history: ImageSet, config: EvaluateConfig) -> Curves:
    """Index of real tiles that fulfil the rule, as cases without changes ``(tiles, 1)``."""
    places = {tile.key: index for index, tile in enumerate(history.tiles)}
    fitting = [tile for tile in history.tiles if response.fits(tile)]
    clear = [tile for tile in fitting if (tile.cloud_frac or 0.0) <= config.max_cloud_frac]
    chosen = choose_cases(clear, MAX_OBSERVED, seed=config.seed)
    # Frames of one mosaic one after the other.
    chosen.sort(key=lambda tile: (tile.month or "", tile.key))
    index = np.array([_read(response, history, places[tile.key]) for tile in chosen])
    is_read = np.isfinite(index)
    left_out = Counter(cloudy=len(fitting) - len(clear), unreadable=int((~is_read).sum()))
    left_out[f"beyond the {MAX_OBSERVED} that are read"] = len(clear) - len(chosen)
    kept = [tile for tile, counts in zip(chosen, is_read, strict=True) if counts]
    level = np.array([response.level(tile) for tile in kept])
    return Curves(kept, level[:, None], index[is_read][:, None], +left_out)


def generated_scores(response: Response, curves: Curves, config: EvaluateConfig) -> list[Score]:
    """Slopes, signs and order over cases: of all and of each land cover; and the mean curve."""
    detail = f"{response.index} ~ {response.variable} | {SUSTAINED}"
    scores = []
    for group, counts in cases_by_class(curves.cases):
        part = curves.select(counts)
        row = Row(GENERATED, detail, group, part, config)
        scores.append(row.slope(scatter_of_cases(part)))
        for name, values in case_values(response, part).items():
            scores.append(row.mean(name, values))
    base = Row(GENERATED, detail, "all", curves, config)
    variable = CLIMATE[response.variable]
    still = [parse_change(text, variable).is_none for text in response.changes].index(True)
    for turn, text in enumerate(response.changes):
        change = curves.index[:, turn] - curves.index[:, still]
        scores.append(replace(base, detail=f"{detail} {text}").mean("response_curve", change))
    return scores


def observed_scores(response: Response, real: Curves, config: EvaluateConfig) -> list[Score]:
    """Slopes of real frames: across places of a class and month, and over months of a place."""
    base = f"{response.index} ~ {response.variable} | "
    scores = []
    for group, counts in cases_by_class(real.cases):
        part = real.select(counts)
        row = Row(OBSERVED, base + ACROSS, group, part, config)
        scores.append(row.slope(across_places(part)))
        own = np.array([case.climate[response.variable] for case in part.cases])[:, None]
        months = replace(part, level=own)
        strata = [case.place or case.key for case in part.cases]
        scores.append(replace(row, detail=base + WITHIN).slope(scatter_of(months, strata)))
    return scores
