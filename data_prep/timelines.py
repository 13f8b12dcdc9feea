"""The scenarios of a request: files are read before a model, climate once the place is known."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.scenarios import (
    build_timelines,
    read_climate_file,
    read_scenario,
    start_under,
)
from ecomap.schema import TileRecord
from ecomap.sequence import Timeline


def open_timelines(
    months: Sequence[str], *, scenarios: Sequence[Path] = (), climate: Path | None = None
) -> Callable[[Sequence[TileRecord]], tuple[list[TileRecord], list[Timeline]]]:
    """What puts a start under the scenarios of a request.

    Args:
        months: Shown, ``YYYY-MM`` (`data_prep.scenarios.parse_months`).
        scenarios: YAML files; by default the climate as it is.
        climate: Series of the place, for scenarios that name none of their own.

    Returns:
        Function of the months of a start: each under the climate of its own month, and a timeline
        for each scenario.

    Raises:
        ConfigError: If a scenario is malformed.
    """
    opened = [read_scenario(path) for path in scenarios]

    def put(starts: Sequence[TileRecord]) -> tuple[list[TileRecord], list[Timeline]]:
        first, series = starts[0], None
        if climate is not None:
            series = read_climate_file(climate, first.lat, first.lon)
        begin = list(starts) if series is None else [start_under(s, series) for s in starts]
        return begin, build_timelines(begin[0], opened, months, series=series)

    return put
