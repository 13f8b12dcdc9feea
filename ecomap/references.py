"""Reference months: which other frame of a place a ControlNet may be shown.

A reference is earlier than its target, so that a landscape is asked to go on in time; in a mean
year, whose months have no order, it is an earlier month of the circle.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecomap.schema import TileRecord

SHOWS_NOTHING = frozenset({"black", "white", "blank"})
"""Flags of frames on which there is nothing to see of a place."""

NONE = -1
"""Reference of a record that has none."""


class References:
    """The allowed references of each record."""

    def __init__(
        self,
        records: Sequence[TileRecord],
        *,
        max_gap_months: int,
        min_gap_months: int = 1,
        wrap_year: bool = False,
        max_cloud_frac: float = 1.0,
        pool: Sequence[TileRecord] | None = None,
    ) -> None:
        """Find the references of records.

        Args:
            records: Targets.
            max_gap_months: Most months between a reference and its target.
            min_gap_months: Fewest; at 0 a record may be its own reference.
            wrap_year: Whether the year is left aside and months form a circle.
            max_cloud_frac: Frames with more cloud are no references; those of unknown cloudiness
                may be one. Frames that are flagged as showing nothing never are.
            pool: Frames that may be references; by default the targets themselves.
        """
        self.records = records
        """The targets."""
        self.pool: list[TileRecord] = list(records if pool is None else pool)
        """Frames that may be references; `choose` gives positions in it."""
        places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, record in enumerate(self.pool):
            is_cloudy = record.cloud_frac is not None and record.cloud_frac > max_cloud_frac
            if not is_cloudy and not SHOWS_NOTHING.intersection(record.flags):
                places[record.place_id].append((_month_number(record), position))
        found: list[list[tuple[int, int]]] = []
        for record in records:
            own = _month_number(record)
            gaps = ((own - month, position) for month, position in places[record.place_id])
            if wrap_year:
                gaps = ((gap % 12, position) for gap, position in gaps)
            found.append([pair for pair in gaps if min_gap_months <= pair[0] <= max_gap_months])
        self._counts = np.array([len(pairs) for pairs in found], dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        flat = [pair for pairs in found for pair in pairs]
        self._gaps, self._positions = np.array(flat, dtype=np.int64).reshape(-1, 2).T

    @property
    def without(self) -> NDArray[np.int64]:
        """Positions of the records that have no reference; their control is empty."""
        return np.flatnonzero(self._counts == 0)

    def choose(
        self, index: NDArray[np.int64], draw: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose a reference for each of some records, all of its references alike often.

        Args:
            index: Positions of the records ``(B,)``.
            draw: Uniform in [0, 1) ``(B,)``.

        Returns:
            Position of the reference in the pool, or `NONE`, and months from it to the target
            (0 where there is none), each int64 ``(B,)``.
        """
        counts = self._counts[index]
        has_any = counts > 0
        choice = self._starts[index] + np.minimum((draw * counts).astype(np.int64), counts - 1)
        reference = np.full(len(index), NONE, dtype=np.int64)
        gap = np.zeros(len(index), dtype=np.int64)
        reference[has_any] = self._positions[choice[has_any]]
        gap[has_any] = self._gaps[choice[has_any]]
        return reference, gap

    def render(self) -> str:
        """Counts in words."""
        have = int((self._counts > 0).sum())
        text = f"{have} of {len(self._counts)} tiles have a reference"
        if have:
            text += f", {self._counts[self._counts > 0].mean():.1f} on average"
        if lost := len(self._counts) - have:
            text += f"; {lost} see an empty control"
        return text + "."


def _month_number(record: TileRecord) -> int:
    """Months since year 0."""
    return 12 * int(record.month[:4]) + record.month_index
