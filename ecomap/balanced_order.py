"""Orders of records in which rare classes come more often; chance decides only the rounding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecomap.errors import ConfigError


def class_members(classes: ArrayLike | None, num_records: int) -> list[NDArray[np.int64]]:
    """Records of each class that occurs, by ascending code.

    Args:
        classes: Code of each record, ``(num_records,)``.
        num_records: Number of records.

    Raises:
        ConfigError: If a record has no code.
    """
    codes = np.asarray(() if classes is None else classes)
    if codes.shape != (num_records,):
        raise ConfigError(
            f"class_balance needs a class for each of {num_records} tiles and was given "
            f"{codes.size}. Give them all, or set class_balance to 0."
        )
    _, place = np.unique(codes, return_inverse=True)
    return [np.flatnonzero(place == code) for code in range(int(place.max()) + 1)]


def balanced_order(
    members: Sequence[NDArray[np.int64]],
    total: int,
    balance: float,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Records of an epoch, each expected ``total * n ** -balance / sum`` times (n: its class).

    Stratified: the count of a class is its expectation rounded up or down at random, and within a
    class the counts of two records differ by at most one.

    Args:
        members: Records of each class, none empty.
        total: Length of the result.
        balance: In [0, 1].
        generator: What decides the rest.
    """
    share = np.array([float(len(records)) for records in members]) ** (1 - balance)
    # Systematic sampling: one random offset, then every whole number, on the summed expectations.
    edges = np.cumsum(share) / share.sum() * total
    ends = np.floor(edges + generator.random()).astype(np.int64)
    ends[-1] = total
    counts = np.diff(ends, prepend=0)
    drawn = []
    for records, count in zip(members, counts.tolist(), strict=True):
        rounds, rest = divmod(count, len(records))
        drawn += [np.tile(records, rounds), generator.permutation(records)[:rest]]
    return generator.permutation(np.concatenate(drawn))
