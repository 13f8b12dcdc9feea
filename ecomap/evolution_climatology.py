"""Greenness and snow that training frames of a class and calendar month have on average.

The mean image of a class is grey where some frames show sea, and its snow is what survives a
threshold on means. The mean of what is read off each frame has neither fault: it is the stronger
rival in greenness and snow, and has no image.
"""

from collections.abc import Callable

import numpy as np

from ecomap.baseline_sets import MeanFrame
from ecomap.errors import ImageError
from ecomap.indices import land_indices
from ecomap.tiles import Measured, tile_table

CLASS_INDEX = "class_month_index"

DESCRIPTION = (
    "Mean greenness and snow of training frames of the same land cover and calendar month; there "
    "is no image."
)


def class_month_indices(
    mean: MeanFrame, *, progress: Callable[[str, int, int], None] | None = None
) -> Measured:
    """Indices that stand for each target of a class mean, from the same training frames.

    Args:
        mean: Baseline ``class_month_mean``; its frames must not hold the targets themselves.
        progress: Called with (system, done, total) groups.

    Returns:
        Columns of `ecomap.tiles.tile_table`, ``gcc`` and ``snow_frac``, under the keys of targets;
        frames that cannot be read are listed in ``problems``.
    """
    groups = list(dict.fromkeys(mean.groups))
    found: dict[str, tuple[float, float]] = {}
    problems: dict[str, list[str]] = {}
    for done, group in enumerate(groups):
        rows = []
        for position in mean.members[group]:
            try:
                frame = mean.history.read(position)
            except ImageError as error:
                problems.setdefault(error.reason, []).append(mean.history.tiles[position].key)
                continue
            own = land_indices(frame.rgb, frame.valid)
            rows.append((own.greenness, own.snow_frac))
        values = np.array(rows or [(np.nan, np.nan)], np.float64)
        known = values[np.isfinite(values).all(1)]
        found[group] = (
            (float(known[:, 0].mean()), float(known[:, 1].mean()))
            if len(known)
            else (float("nan"), float("nan"))
        )
        if progress is not None:
            progress(CLASS_INDEX, done + 1, len(groups))
    table = tile_table(mean.tiles)
    own_groups = [found[group] for group in mean.groups]
    table["gcc"] = [greenness for greenness, _ in own_groups]
    table["snow_frac"] = [snow for _, snow in own_groups]
    return Measured(CLASS_INDEX, "baseline", DESCRIPTION, table, problems=problems)
