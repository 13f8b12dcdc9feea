"""Numbers of a run over its steps, as its ``metrics.jsonl`` has them.

Each line holds numbers of one step: those with ``seconds`` are of training, whose means run over
steps; keys that begin with ``val_`` are of held-out data.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError

HELD_OUT = "val_"
STEP, SECONDS = "step", "seconds"


@dataclass(frozen=True)
class Series:
    """One number over the steps of a run."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    """NaN and infinity where the run logged them."""

    @property
    def lowest(self) -> tuple[int, float] | None:
        """Step and value of the lowest finite value."""
        finite = np.isfinite(self.values)
        if not finite.any():
            return None
        at = int(np.argmin(np.where(finite, self.values, np.inf)))
        return int(self.steps[at]), float(self.values[at])


def read_lines(path: Path, start: int = 0) -> tuple[list[dict[str, float]], int]:
    """Read whole lines of a metrics file; one that is still being written waits.

    Args:
        path: File of one JSON object a line, each with a ``step``; may be missing.
        start: Byte at which to begin.

    Returns:
        Numbers of each line, and the byte behind the last whole line.

    Raises:
        DataError: If a line is no JSON object with a step.
    """
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        try:
            content = json.loads(line)
            step = int(content[STEP])
        except (ValueError, TypeError, KeyError):
            raise DataError(
                f"{path} has the line {line[:60]!r}. Expected a JSON object with a step; delete "
                "the line."
            ) from None
        numbers = {k: float(v) for k, v in content.items() if isinstance(v, int | float)}
        lines.append(numbers | {STEP: step})
    return lines, start + len(whole)


def collect(lines: Iterable[Mapping[str, float]]) -> dict[str, Series]:
    """Series by key, in the order in which keys first occur; with the time of a step."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    before: Mapping[str, float] = {}
    for line in lines:
        numbers = dict(line)
        if SECONDS in line:
            done = line[STEP] - before.get(STEP, line[STEP])
            # A run that was resumed counts its seconds from 0 again.
            passed = line[SECONDS] - before.get(SECONDS, line[SECONDS])
            if done > 0 and passed > 0:
                numbers["step_time"] = passed / done
            before = line
        for key, value in numbers.items():
            if key not in (STEP, SECONDS):
                steps, values = found.setdefault(key, ([], []))
                steps.append(int(line[STEP]))
                values.append(value)
    return {k: Series(np.array(s, np.int64), np.array(v)) for k, (s, v) in found.items()}
