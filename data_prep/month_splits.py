"""Train, validation and test sides by calendar month: the same places, seen at other times.

For series of few places, where whole places cannot be held out. A month's side is decided by a hash
of its year and name, so it is the same for every place and does not change when a dataset grows.
Every year gives its fractions of months to each side, rounded up or down.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.splits import HELD_OUT, check_fractions, leakage_report
from ecomap.schema import (
    Split,
    TileRecord,
    months_between,
    read_dataset,
    read_summary,
    write_dataset,
)

MONTHS_A_YEAR = 12

SHARED = (
    "{count} places have months on several sides: held-out scores tell how well other months of "
    "known places are met, not other places."
)
NEIGHBOURS = (
    "{share:.0%} of the held-out tiles have the month before or after of the same place in "
    "training."
)
EMPTY = "{batch} has no month for {side}."


@dataclass(frozen=True, kw_only=True)
class MonthSplitConfig:
    """How months are divided."""

    test_frac: float = 0.1
    """Fraction of the months of a year held out for testing."""
    val_frac: float = 0.05
    """Fraction of the months of a year held out for choosing between runs."""
    seed: int = 0


def month_split(month: str, config: MonthSplitConfig) -> Split:
    """Side of a month ``YYYY-MM``.

    The months of its year are put in an order by hash, and a hash of the year decides whether a
    fraction of a month is rounded up or down.
    """
    year = month[:4]
    names = [f"{year}-{number:02d}" for number in range(1, MONTHS_A_YEAR + 1)]
    rank = sorted(names, key=lambda name: _hash(config.seed, name)).index(month)
    place = (rank + _hash(config.seed, year)) / MONTHS_A_YEAR
    if place < config.test_frac:
        return "test"
    return "val" if place < config.test_frac + config.val_frac else "train"


def assign_months(
    records: Sequence[TileRecord], config: MonthSplitConfig | None = None
) -> list[TileRecord]:
    """Give every record the side of its month.

    Args:
        records: Records of any places.
        config: How to divide.

    Returns:
        The records in their order, with ``split`` set.

    Raises:
        RequestError: If the fractions make no sense.
    """
    config = config or MonthSplitConfig()
    check_fractions(config.test_frac, config.val_frac)
    sides = {month: month_split(month, config) for month in {record.month for record in records}}
    return [record.model_copy(update={"split": sides[record.month]}) for record in records]


def month_report(records: Sequence[TileRecord]) -> dict[str, Any]:
    """Count months by side and say what the sides share.

    Returns:
        `data_prep.splits.leakage_report`, and ``months`` by split; ``months_by_batch``: the same
        for each batch of a source; ``neighbour_frac``: share of the held-out tiles, [0, 1], with
        the month before or after of their place in training, ``None`` where none is held out; and
        ``notes``: what the reader must know.
    """
    report = leakage_report(records)
    months: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        for batch in ("", _batch(record)):
            months[batch][record.split].add(record.month)
    counts = {
        batch: {side: len(found) for side, found in sorted(sides.items())}
        for batch, sides in sorted(months.items())
    }
    overall = counts.pop("", {})
    neighbour_frac = _neighbour_frac(records)
    notes = [SHARED.format(count=report["shared_places"])] if report["shared_places"] else []
    if neighbour_frac:
        notes.append(NEIGHBOURS.format(share=neighbour_frac))
    notes += [
        EMPTY.format(batch=batch, side=side)
        for batch, sides in counts.items()
        for side in ("train", *HELD_OUT)
        if side not in sides and side in overall
    ]
    extra = {"months": overall, "months_by_batch": counts, "neighbour_frac": neighbour_frac}
    return report | extra | {"notes": notes}


def split_dataset_by_month(folder: Path, config: MonthSplitConfig | None = None) -> dict[str, Any]:
    """Divide a dataset folder in place by month and return its `month_report`."""
    config = config or MonthSplitConfig()
    records = assign_months(read_dataset(folder), config)
    report = month_report(records)
    summary = read_summary(folder) | {
        "split": {"by": "month"} | asdict(config) | {"report": report}
    }
    write_dataset(folder, records, summary=summary)
    return report


def _neighbour_frac(records: Sequence[TileRecord]) -> float | None:
    """Share of held-out tiles next to a training month of their place."""
    training = defaultdict(list)
    for record in records:
        if record.split == "train":
            training[record.place_id].append(record.month)
    held_out = [record for record in records if record.split in HELD_OUT]
    near = [
        any(abs(months_between(month, record.month)) == 1 for month in training[record.place_id])
        for record in held_out
    ]
    return round(sum(near) / len(near), 4) if near else None


def _batch(record: TileRecord) -> str:
    """Source and batch in one word."""
    return "/".join(part for part in (record.source, record.batch) if part)


def _hash(seed: int, text: str) -> float:
    """Number in [0, 1) of a text."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
