"""From folders and bundles to the sets of images that an evaluation compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecomap.baseline_sets import Baseline
from ecomap.baselines import DESCRIPTIONS, make_baselines
from ecomap.blocks import with_blocks
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.image_sets import FileImageSet, open_image_set
from ecomap.image_subsets import Joined, take
from ecomap.pairing import Pairing, pair
from ecomap.places import choose_targets
from ecomap.schema import Split
from ecomap.scores import OBSERVED
from ecomap.tiles import ImageSet, ScoredTile

RESERVED = frozenset(
    {
        OBSERVED,
        *("reference", "others", "real_vs_real", "place_only", "month_only"),
        *("autoencoder", "shuffled_climate", "unconditional"),
        *DESCRIPTIONS,
    }
)
"""Names of rows that a report makes itself."""

DEFAULT_NAME = "generated"
"""Name of the images where none is given."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A folder of images as it was given."""

    name: str
    images: FileImageSet
    path: Path
    num_scored: int
    dropped: Mapping[str, int]
    """Images and rows that are not scored, by reason."""
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an evaluation compares."""

    reference: ImageSet
    """The real images that others are held against."""
    history: ImageSet
    """All real images that are known, those of the reference among them."""
    training: Sequence[int]
    """Positions in it of the images that baselines may learn from."""
    pool: Sequence[ScoredTile] = ()
    """Tiles that could have been the reference."""
    others: ImageSet | None = None
    """Real images of other places, for the floor of distances."""
    systems: Sequence[ImageSet] = ()
    unpaired: frozenset[str] = frozenset()
    """Systems whose images have no real image of the same key."""
    given: Sequence[Given] = ()
    """The folders; that of the reference first."""


def gather_folders(
    reference: Path,
    generated: Mapping[str, Path],
    *,
    training: Path | None,
    masks: Path | None,
    config: EvaluateConfig,
) -> Inputs:
    """Open folders of generated images and the real images that they are held against.

    Args:
        reference: Real images.
        generated: Folder of each system by its name.
        training: Further real images, from which baselines may learn.
        masks: Masks of the reference.
        config: Settings.

    Raises:
        RequestError: If a name is reserved, or sets cannot be compared.
        DataError: If a folder cannot be used.
    """
    real = _open(reference, "reference", config, masks=masks)
    splits = scored_splits(real.tiles, config)
    systems: list[FileImageSet] = []
    pairings: list[Pairing] = []
    scored, has_few_pairs = set[int](), False
    for name, path in generated.items():
        made = open_image_set(
            path, name=name, kind="generated", size_px=config.size_px,
            max_masked_frac=config.max_masked_frac,
        )  # fmt: skip
        _check_sizes(real, made, path)
        found = pair(real.tiles, made.tiles)
        systems.append(made)
        pairings.append(found)
        scored |= {other for other, _ in found.pairs if real.tiles[other].split in splits}
        has_few_pairs |= 2 * len(found.pairs) < len(made.tiles)
    if has_few_pairs:  # images without a partner are compared with all real ones, as sets
        scored |= {index for index, tile in enumerate(real.tiles) if tile.split in splits}
    wanted = sorted(scored)
    if not wanted:
        raise RequestError(
            f"No real image of {reference} that pairs is on the sides {', '.join(splits)} of its "
            "split. Name others, such as splits=[train,val,test]."
        )
    parts, given, unpaired = [], [], set()
    for made, found in zip(systems, pairings, strict=True):
        other_side = {own for real_one, own in found.pairs if real_one not in scored}
        indices = [index for index in range(len(made.tiles)) if index not in other_side]
        if len(other_side) == len(found.pairs):
            unpaired.add(made.name)
        left_out = {reason: len(keys) for reason, keys in made.dropped.items()}
        left_out |= {"its real image is on another side of the split": len(other_side)}
        parts.append((made, indices, [found.tiles[index] for index in indices]))
        given.append(
            Given(
                name=made.name, images=made, path=generated[made.name], num_scored=len(indices),
                dropped={reason: num for reason, num in left_out.items() if num},
                notes=(*made.notes, *found.notes),
            )
        )  # fmt: skip
    tiles, *own = with_blocks([real.tiles[i] for i in wanted], *(part for *_, part in parts))
    history, learnt = _history(real, training, config)
    return Inputs(
        reference=take(real, wanted, tiles=tiles, name=OBSERVED),
        history=history,
        training=learnt,
        systems=[
            take(made, indices, tiles=part)
            for (made, indices, _), part in zip(parts, own, strict=True)
        ],
        unpaired=frozenset(unpaired),
        given=(_given_reference(real, reference, wanted, "no generated image"), *given),
    )


def choose_from_dataset(
    reference: Path, *, masks: Path | None, training: Path | None, config: EvaluateConfig
) -> Inputs:
    """Choose the tiles of a dataset for which a bundle makes images.

    Raises:
        RequestError: If too few tiles can be scored.
        DataError: If the dataset cannot be used.
    """
    real = _open(reference, "reference", config, masks=masks)
    targets = choose_targets(
        real.tiles,
        num_places=config.num_places,
        months=config.months,
        splits=scored_splits(real.tiles, config),
        seed=config.seed,
    )
    index = {tile.key: number for number, tile in enumerate(real.tiles)}
    wanted = [index[tile.key] for tile in targets.chosen]
    others = [index[tile.key] for tile in targets.others]
    history, learnt = _history(real, training, config)
    blocks = with_blocks(targets.chosen, targets.others, targets.pool)
    given = _given_reference(real, reference, wanted, "not chosen")
    left = {**given.dropped, **targets.dropped}
    left["not chosen"] = len(real.tiles) - len(wanted) - sum(targets.dropped.values())
    return Inputs(
        reference=take(real, wanted, tiles=blocks[0], name=OBSERVED),
        history=history,
        training=learnt,
        pool=blocks[2],
        others=take(real, others, tiles=blocks[1], name="others") if others else None,
        given=(replace(given, dropped={k: v for k, v in left.items() if v}),),
    )


def scored_splits(tiles: Sequence[ScoredTile], config: EvaluateConfig) -> tuple[Split, ...]:
    """Sides that may be scored: those of the settings, else the test side.

    Without a test side, all but the training side; all where nothing is divided.
    """
    if config.splits is not None:
        return config.splits
    found = {tile.split for tile in tiles}
    if "test" in found:
        return ("test",)
    return tuple(sorted(found - {"train", "buffer"})) or tuple(sorted(found))


def baselines_of(inputs: Inputs, config: EvaluateConfig) -> tuple[list[Baseline], dict[str, str]]:
    """Baselines for the reference, and why others cannot be made."""
    return make_baselines(
        inputs.reference.tiles,
        inputs.history,
        inputs.training,
        max_cloud_frac=config.max_cloud_frac,
    )


def parse_generated(items: Sequence[str]) -> dict[str, Path]:
    """Folders by name from ``NAME=FOLDER`` or ``FOLDER``.

    Raises:
        RequestError: If a name is reserved, given twice, or several folders have none.

    Example:
        >>> parse_generated(["runs/a"])
        {'generated': PosixPath('runs/a')}
        >>> parse_generated(["ours=a", "theirs=b"])
        {'ours': PosixPath('a'), 'theirs': PosixPath('b')}
    """
    found: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.rpartition("=") if not Path(item).exists() else ("", "", item)
        name = name or DEFAULT_NAME
        if name in found:
            raise RequestError(
                f"Two folders of images are named {name!r}. Name each: --generated NAME=FOLDER."
            )
        if name in RESERVED:
            raise RequestError(
                f"Images cannot be named {name!r}: reports have rows of that name. Choose another."
            )
        found[name] = Path(folder)
    return found


def _open(path: Path, name: str, config: EvaluateConfig, masks: Path | None = None) -> FileImageSet:
    return open_image_set(
        path, name=name, kind="reference", size_px=config.size_px, masks=masks,
        max_masked_frac=config.max_masked_frac,
    )  # fmt: skip


def _check_sizes(real: FileImageSet, made: FileImageSet, path: Path) -> None:
    """Pixels can only be compared with pixels of the same size."""
    if made.size != real.size:
        raise RequestError(
            f"Images of {path} have {made.size[0]} x {made.size[1]} px, the real ones "
            f"{real.size[0]} x {real.size[1]} px. Expected one size; bring both to one with "
            f"size_px={min(*made.size, *real.size)}."
        )


def _history(
    real: FileImageSet, training: Path | None, config: EvaluateConfig
) -> tuple[ImageSet, list[int]]:
    """All real images, and positions of those that baselines may learn from."""
    learnt = [index for index, tile in enumerate(real.tiles) if tile.split == "train"]
    if training is None:
        return real, learnt
    more = _open(training, "training", config)
    if more.size != real.size:
        _check_sizes(real, more, training)
    joined = Joined(
        parts=(real, more), name="history", kind="reference", description="All real images."
    )
    seen = {tile.key for tile in real.tiles}
    new = [
        len(real.tiles) + index
        for index, tile in enumerate(more.tiles)
        if tile.key not in seen and tile.split in ("train", "unassigned")
    ]
    return joined, learnt + new


def _given_reference(real: FileImageSet, path: Path, wanted: Sequence[int], why_not: str) -> Given:
    dropped = {reason: len(keys) for reason, keys in real.dropped.items()}
    if len(real.tiles) > len(wanted):
        dropped[why_not] = len(real.tiles) - len(wanted)
    return Given(
        name="reference", images=real, path=path, num_scored=len(wanted), dropped=dropped,
        notes=real.notes,
    )  # fmt: skip
