"""Distances between sets of images at equal n, for all images and for every group, with intervals.

A distance between sets depends on how many images they have, so each group is represented by the
same number on both sides. What a class's share of the data does to its score is thereby gone.

Longer than the budget because the words for nine metrics stand beside their code.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap.errors import DataError, RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.frechet import MIN_EXTRAPOLATED, Counts, FrechetPair, count_rows
from ecomap.kernels import cmmd_draws, kernel_distances
from ecomap.manifold import compare_manifolds, inception_scores
from ecomap.metrics import Interval, mean_interval, recentred_interval
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.tiles import Measured, group_masks

Values = NDArray[np.float64]
Rows = NDArray[np.intp]

REAL = "real_vs_real"
"""System of the floor: real images against other real ones."""
CLIP_SPACES = ("transformers", "open_clip")
"""Spaces whose features CMMD is made for begin with one of these."""
MAX_SUBSETS = 8
"""Subsets of a group whose distances are averaged, where it has so many times the images."""
NUM_ORDERS = 5
"""Random orders of all images in the extrapolation of the Fréchet distance."""
POOL = 20
"""A group with more than so many times the equal n is represented by that many, drawn once."""

HELD_FIXED = "manifolds held fixed: the interval is too narrow"
"""Flag of precision, recall, density and coverage, whose draws do not build manifolds anew."""

METRICS: dict[str, Metric] = {
    "frechet_distance": Metric(
        label="Fréchet distance (FID)",
        unit="squared features",
        better="lower",
        formula="|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), at equal n",
        reference="Heusel et al. (2017), https://arxiv.org/abs/1706.08500",
    ),
    "frechet_distance_extrapolated": Metric(
        label="Fréchet distance at infinite n",
        unit="squared features",
        better="lower",
        formula="intercept of FID_n = intercept + slope / n, n from half of the images to all",
        reference="Chong & Forsyth (2020), https://arxiv.org/abs/1911.07023",
    ),
    "kernel_distance": Metric(
        label="Kernel distance (KID)",
        unit="",
        better="zero",
        formula="unbiased squared MMD with kernel (x . y / D + 1)^3, all pairs, at equal n",
        reference="Binkowski et al. (2018), https://arxiv.org/abs/1801.01401",
    ),
    "cmmd": Metric(
        label="CMMD",
        unit="",
        better="lower",
        formula="1000 times squared MMD with kernel exp(-|x - y|^2 / 200) of unit CLIP embeddings",
        reference="Jayasumana et al. (2024), https://arxiv.org/abs/2401.09603",
    ),
    "precision": Metric(
        label="Precision",
        unit="",
        better="higher",
        formula="share of generated images within k-th-neighbour balls around real ones",
        reference="Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991",
    ),
    "recall": Metric(
        label="Recall",
        unit="",
        better="higher",
        formula="share of real images within k-th-neighbour balls around generated ones",
        reference="Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991",
    ),
    "density": Metric(
        label="Density",
        unit="",
        better="one",
        formula="mean number of real k-th-neighbour balls that hold a generated image, over k",
        reference="Naeem et al. (2020), https://arxiv.org/abs/2002.09797",
    ),
    "coverage": Metric(
        label="Coverage",
        unit="",
        better="higher",
        formula="share of real images whose k-th-neighbour ball holds a generated one",
        reference="Naeem et al. (2020), https://arxiv.org/abs/2002.09797",
    ),
    "inception_score": Metric(
        label="Inception Score",
        unit="",
        better="higher",
        formula="exp(mean KL(p(y | x) || p(y))), at equal n",
        reference="Salimans et al. (2016), https://arxiv.org/abs/1606.03498",
    ),
}
"""Words for each metric, by its name in scores."""

MANIFOLD_METRICS = {
    "precision": ("precise", False),
    "recall": ("recalled", True),
    "density": ("dense", False),
    "coverage": ("covered", True),
}
"""Field of `ecomap.manifold.Manifold` that each metric is the mean of, and whether over real
images."""


@dataclass(frozen=True)
class _Side:
    """Some images of a set."""

    measured: Measured
    rows: Rows

    @property
    def keys(self) -> NDArray[np.str_]:
        """Key of each image."""
        return np.asarray(self.measured.table.index[self.rows], np.str_)

    @property
    def blocks(self) -> NDArray[np.str_]:
        """Block of each image; an image of unknown place is a block of its own, by its key."""
        blocks = self.measured.table["block"].iloc[self.rows]
        return np.where(blocks.notna(), blocks.astype(str), np.char.add("image ", self.keys))

    def features(self, space: str) -> Values:
        """``(N, D)``."""
        return np.asarray(self.measured.features[space][self.rows], np.float64)


@dataclass(frozen=True)
class _Match:
    """Images of the reference and of a system that are compared, and at which n."""

    system: str
    group_kind: str
    group: str
    a: _Side
    b: _Side
    num: int
    """Images of each side in a distance; 0 where there are too few."""
    flag: str = ""

    def score(
        self,
        metric: str,
        space: str,
        value: float | None,
        interval: Interval | None = None,
        *,
        flag: str = "",
    ) -> Score:
        """A row of the report."""
        flags = dict.fromkeys(text for text in (self.flag, flag) if text)
        if value is not None and interval is None:
            flags["one block: no interval"] = None
        return Score(
            system=self.system,
            section="realism",
            metric=metric,
            detail=space,
            group_kind=self.group_kind,
            group=self.group,
            value=value,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            n=self.num if value is not None else min(len(self.a.rows), len(self.b.rows)),
            num_blocks=len(np.union1d(self.a.blocks, self.b.blocks)),
            flag="; ".join(flags),
        )


@dataclass(frozen=True)
class _Draws:
    """Subsets of both sides, ``(P, n)`` rows each, and as many of each bootstrap draw."""

    subsets: tuple[Rows, Rows]
    orders: tuple[Rows, Rows]
    """`NUM_ORDERS` random orders of ``n`` images, through which distances are extrapolated."""
    redrawn: tuple[Rows, Rows]
    """``(S, P, n)``; S is 0 where there is but one block."""

    def estimate(
        self,
        sizes: tuple[int, int],
        distances: Callable[[Counts, Counts], Values],
        config: EvaluateConfig,
        *,
        minimum: float = -np.inf,
    ) -> tuple[float, Interval | None]:
        """Mean distance over subsets, and its interval; one call for all of them."""
        num, num_subsets = self.redrawn[0].shape[:2]
        flat = [
            np.concatenate([own, drawn.reshape(-1, own.shape[1])])
            for own, drawn in zip(self.subsets, self.redrawn, strict=True)
        ]
        found = distances(count_rows(flat[0], sizes[0]), count_rows(flat[1], sizes[1]))
        value = float(found[:num_subsets].mean())
        if not num:
            return value, None
        draws = found[num_subsets:].reshape(num, num_subsets).mean(1)
        return value, recentred_interval(value, draws, level=config.level, minimum=minimum)


def realism_scores(
    reference: Measured,
    systems: Sequence[Measured],
    others: Measured | None,
    config: EvaluateConfig,
    *,
    progress: Callable[[str], None],
) -> list[Score]:
    """Score how realistic each set of images is, for all images and each group of ``config``.

    All images are compared at the largest n that both sides have, a group at ``config.equal_n``:
    subsets of that size are drawn without replacement from both sides until they have used all
    images, or `MAX_SUBSETS` times, and their distances averaged. Images of one key are drawn
    together, so that a set with the keys of the reference is compared on the same keys in every
    group, small or large; it may then lie below the floor `REAL`, whose images are of other keys. A
    group with fewer images on either side has rows without a value that say so.

    Intervals draw whole blocks with replacement, the same blocks on both sides, and take the same
    subsets of what was drawn. Those of distances are the scatter of these draws, put around the
    estimate (`ecomap.metrics.recentred_interval`): they are about the expected distance at this n.
    Those of precision, recall, density and coverage take the manifolds as given.

    Args:
        reference: Real images.
        systems: Sets to score, of all kinds.
        others: Real images of other places. With them `REAL` is the distance between the reference
            and them; without, between halves of the reference that share no block.
        config: Groups, n, draws and seed.
        progress: Called with a line for each set.

    Returns:
        Rows of section "realism", the feature space in ``detail``.

    Raises:
        RequestError: If a set has no features of a space that the reference has.
        DataError: If features are NaN or infinite.
    """
    sets = [reference, *systems, *([] if others is None else [others])]
    for measured in sets:
        _check_features(measured, tuple(reference.features))
    scores = []
    for system in systems:
        progress(f"realism of {system.name}")
        for match in _matches(system.name, reference, system, config):
            draws = _draw(match, config)
            scores += _distance_scores(match, draws, config)
            scores += _inception_rows(match, draws, config)
    progress("realism of real images")
    floor = (
        _halves(reference, config) if others is None else _matches(REAL, reference, others, config)
    )
    for match in floor:
        scores += _distance_scores(match, _draw(match, config), config)
    for match in _matches(OBSERVED, reference, reference, config):
        if reference.probabilities:
            scores += _inception_rows(match, _draw(match, config), config)
    return scores


def _check_features(measured: Measured, spaces: Sequence[str]) -> None:
    """Every set needs the same spaces, and finite features."""
    for space in spaces:
        if space not in measured.features:
            raise RequestError(
                f"The set {measured.name!r} has no features in the space {space!r}, in which the "
                "reference was measured. Measure all sets in the same spaces."
            )
        features = measured.features[space]
        bad = sum(
            int((~np.isfinite(features[start : start + 1024])).any(1).sum())
            for start in range(0, len(features), 1024)
        )
        if bad:
            raise DataError(
                f"{bad} of {len(features)} images of {measured.name!r} have features in {space!r} "
                "that are NaN or infinite. Features must be finite: check the network's weights."
            )


def _groups(table: pd.DataFrame, config: EvaluateConfig) -> dict[tuple[str, str], Rows]:
    """Rows of each group by kind and name; all rows first."""
    found = {("all", "all"): np.arange(len(table))}
    for kind in config.groups:
        for name, mask in group_masks(table, kind).items():
            found[kind, name] = np.flatnonzero(mask)
    return found


def _matches(
    system: str, reference: Measured, other: Measured, config: EvaluateConfig
) -> Iterator[_Match]:
    """All images and each group of either set; what only one of them has is refused."""
    groups_a, groups_b = _groups(reference.table, config), _groups(other.table, config)
    none = np.empty(0, np.intp)
    for group in groups_a | groups_b:
        a = _Side(reference, groups_a.get(group, none))
        b = _Side(other, groups_b.get(group, none))
        yield _match(system, group, a, b, config.equal_n, config.seed)


def _match(
    system: str, group: tuple[str, str], a: _Side, b: _Side, needed: int, seed: int, flag: str = ""
) -> _Match:
    """Both sides at the n of their group, or refused."""
    fewest = min(len(a.rows), len(b.rows))
    if fewest < needed:
        return _Match(system, *group, a, b, 0, f"refused: {fewest} images, {needed} needed")
    if group[0] == "all":
        return _Match(system, *group, a, b, fewest, flag)
    keys, num_keys = _codes([a.keys, b.keys])
    rank = np.random.default_rng(seed).permutation(num_keys)
    pooled = [
        _Side(side.measured, side.rows[np.sort(np.argsort(rank[own])[: POOL * needed])])
        for side, own in zip((a, b), keys, strict=True)
    ]
    return _Match(system, *group, pooled[0], pooled[1], needed, flag)


def _halves(reference: Measured, config: EvaluateConfig) -> Iterator[_Match]:
    """Halves of each group that share no block; of a small group at down to half the n."""
    for group, rows in _groups(reference.table, config).items():
        side = _Side(reference, rows)
        blocks, codes, sizes = np.unique(side.blocks, return_inverse=True, return_counts=True)
        second, balance = np.zeros(len(blocks), bool), 0
        order = np.random.default_rng(config.seed).permutation(len(blocks))
        for block in sorted(order, key=lambda block: -sizes[block]):
            second[block] = balance > 0
            balance += sizes[block] * (-1 if second[block] else 1)
        halves = [_Side(reference, rows[second[codes] == part]) for part in (False, True)]
        fewest = min(len(half.rows) for half in halves)
        usual = len(rows) if group[0] == "all" else config.equal_n
        num = min(fewest, usual)
        enough = num >= (config.equal_n + 1) // 2
        needed = min(num, config.equal_n) if enough else config.equal_n
        flag = f"n = {num}, systems have up to {usual}" if num < usual else ""
        yield _match(REAL, group, halves[0], halves[1], needed, config.seed, flag)


def _draw(match: _Match, config: EvaluateConfig) -> _Draws:
    """Subsets and bootstrap draws of a match, decided by the seed, its keys and its blocks."""
    rng = np.random.default_rng(config.seed)
    num, sides = match.num, (match.a, match.b)
    if not num:
        nothing = np.empty((0, 0), np.intp), np.empty((0, 0), np.intp)
        return _Draws(nothing, nothing, nothing)
    num_subsets = min(MAX_SUBSETS, math.ceil(max(len(side.rows) for side in sides) / num))
    keys, _ = _codes([side.keys for side in sides])
    blocks, num_blocks = _codes([side.blocks for side in sides])
    sizes = np.stack([np.bincount(own, minlength=num_blocks) for own in blocks])
    each = [np.ones(len(own), np.intp) for own in keys]
    subsets = _subsets(keys, each, num, num_subsets, rng)
    orders = [_subsets(keys, each, num, 1, rng) for _ in range(NUM_ORDERS)]
    redrawn = []
    for _ in range(config.num_distance_draws if num_blocks > 1 else 0):
        copies = np.bincount(rng.integers(0, num_blocks, num_blocks), minlength=num_blocks)
        while (sizes @ copies).min() < num:  # blocks differ in size: further ones until it suffices
            copies[rng.integers(num_blocks)] += 1
        redrawn.append(_subsets(keys, [copies[own] for own in blocks], num, num_subsets, rng))
    drawn = np.array(redrawn, np.intp).reshape(-1, 2, num_subsets, num)
    first, second = (np.concatenate(own) for own in zip(*orders, strict=True))
    return _Draws(subsets, (first, second), (drawn[:, 0], drawn[:, 1]))


def _codes(names: Sequence[NDArray[np.str_]]) -> tuple[list[Rows], int]:
    """Numbers in place of names, the same for the same name in all arrays; and how many."""
    unique, codes = np.unique(np.concatenate(names), return_inverse=True)
    return np.split(codes, np.cumsum([len(own) for own in names])[:-1]), len(unique)


def _subsets(
    keys: Sequence[Rows],
    copies: Sequence[Rows],
    num: int,
    num_subsets: int,
    rng: np.random.Generator,
) -> tuple[Rows, Rows]:
    """Consecutive pieces of the copies of each side in random order, beginning anew at their end.

    Copies of one key come in the same order on both sides, so that sets of the same keys are
    compared on the same keys whether they have many more images than ``num`` or just as many.
    """
    shape = 1 + max(own.max() for own in keys), 1 + max(own.max() for own in copies)
    rank = rng.random(shape)
    places = np.arange(num_subsets * num).reshape(num_subsets, num)
    pieces = []
    for own, times in zip(keys, copies, strict=True):
        rows = np.repeat(np.arange(len(own)), times)
        turn = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
        pieces.append(rows[np.argsort(rank[own[rows], turn])].take(places, mode="wrap"))
    return pieces[0], pieces[1]


def _distance_scores(match: _Match, draws: _Draws, config: EvaluateConfig) -> list[Score]:
    """Rows of all metrics that compare two sets, in every space."""
    scores = []
    for space in match.a.measured.features:
        names = ["frechet_distance", "kernel_distance", *MANIFOLD_METRICS]
        if match.group_kind == "all":
            names.insert(1, "frechet_distance_extrapolated")
        if space.startswith(CLIP_SPACES):
            names.append("cmmd")
        if not match.num:
            scores += [match.score(name, space, None) for name in names]
            continue
        a, b = match.a.features(space), match.b.features(space)
        scores += _frechet_rows(match, draws, space, a, b, config)
        sizes = len(a), len(b)
        value, interval = draws.estimate(sizes, partial(kernel_distances, a, b), config)
        scores.append(match.score("kernel_distance", space, value, interval))
        if space.startswith(CLIP_SPACES):
            value, interval = draws.estimate(sizes, partial(cmmd_draws, a, b), config, minimum=0)
            scores.append(match.score("cmmd", space, value, interval))
        scores += _manifold_rows(match, draws, space, a, b, config)
    return scores


def _frechet_rows(
    match: _Match, draws: _Draws, space: str, a: Values, b: Values, config: EvaluateConfig
) -> list[Score]:
    """Fréchet distance, and for all images its extrapolation."""
    pair = FrechetPair(a, b)
    few = f"n = {match.num} for {a.shape[1]} features" if match.num <= a.shape[1] else ""
    value, interval = draws.estimate((len(a), len(b)), pair.distances, config, minimum=0)
    flag = f"biased upwards: {few}" if few else ""
    rows = [match.score("frechet_distance", space, value, interval, flag=flag)]
    if match.group_kind != "all":
        return rows
    metric = "frechet_distance_extrapolated"
    needed = max(MIN_EXTRAPOLATED, a.shape[1] + 1)
    if match.num < needed:  # below full rank it is no line in 1/n
        refused = f"refused: {match.num} images, {needed} needed"
        return [*rows, match.score(metric, space, None, flag=refused)]
    value = pair.extrapolated(*draws.orders)
    found = [pair.extrapolated(*orders) for orders in zip(*draws.redrawn, strict=True)]
    interval = recentred_interval(value, found, level=config.level) if found else None
    return [*rows, match.score(metric, space, value, interval)]


def _manifold_rows(
    match: _Match, draws: _Draws, space: str, a: Values, b: Values, config: EvaluateConfig
) -> list[Score]:
    """Precision, recall, density and coverage: means over the images of all subsets."""
    if match.num <= config.num_neighbours:
        refused = f"refused: {match.num} images, {config.num_neighbours + 1} needed"
        return [match.score(name, space, None, flag=refused) for name in MANIFOLD_METRICS]
    subsets_a, subsets_b = draws.subsets
    manifolds = [
        compare_manifolds(a[own_a], b[own_b], num_neighbours=config.num_neighbours)
        for own_a, own_b in zip(subsets_a, subsets_b, strict=True)
    ]
    scores = []
    for name, (field, real) in MANIFOLD_METRICS.items():
        values = np.concatenate([getattr(manifold, field) for manifold in manifolds])
        blocks = (match.a.blocks[subsets_a] if real else match.b.blocks[subsets_b]).ravel()
        interval = None
        if len(np.unique(blocks)) > 1:
            interval = mean_interval(
                values, blocks, num=config.num_draws, seed=config.seed, level=config.level
            )
        flag = "" if interval is None else HELD_FIXED
        scores.append(match.score(name, space, float(values.mean()), interval, flag=flag))
    return scores


def _inception_rows(match: _Match, draws: _Draws, config: EvaluateConfig) -> list[Score]:
    """Inception Score of the second side, in the spaces that classify."""
    scores = []
    sizes = len(match.a.rows), len(match.b.rows)
    for space, probabilities in match.b.measured.probabilities.items():
        if not match.num:
            scores.append(match.score("inception_score", space, None))
            continue
        own = np.asarray(probabilities[match.b.rows], np.float64)

        def of_second(_: Counts, counts: Counts, own: Values = own) -> Values:
            return inception_scores(own, counts)

        value, interval = draws.estimate(sizes, of_second, config, minimum=1)
        scores.append(match.score("inception_score", space, value, interval))
    return scores
