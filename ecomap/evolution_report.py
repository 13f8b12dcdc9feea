"""All numbers of an evaluation of evolution, and the files that hold them.

    scores.json    settings, all scores, gains, claims, histograms, what was left out
    scores.csv     the scores, one a row
    gains.csv      the gains, one a row
    pairs.parquet  what was measured on each pair, by system

`ecomap.evolution_page` writes the page and its pictures beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ecomap.claims import Claim
from ecomap.errors import RequestError
from ecomap.evaluation_report import replacing
from ecomap.evolution_ensemble import METRICS as ENSEMBLE_METRICS
from ecomap.evolution_ensemble import RankHistogram
from ecomap.evolution_gains import Gain
from ecomap.evolution_scores import METRICS as PAIR_METRICS
from ecomap.evolution_structure import METRICS as STRUCTURE_METRICS
from ecomap.responses import METRICS as RESPONSE_METRICS
from ecomap.schema import write_json
from ecomap.scores import OBSERVED, Metric, Score, to_frame

SCORES_FILE, TABLE_FILE = "scores.json", "scores.csv"
GAINS_FILE, PAIRS_FILE = "gains.csv", "pairs.parquet"

METRICS: dict[str, Metric] = {
    **PAIR_METRICS, **STRUCTURE_METRICS, **ENSEMBLE_METRICS, **RESPONSE_METRICS,
}  # fmt: skip
"""All metrics that a report may have."""


@dataclass(frozen=True, kw_only=True)
class EvolutionReport:
    """All numbers of an evaluation."""

    settings: Mapping[str, Any]
    """What was asked, and which model; plain JSON."""
    systems: Mapping[str, tuple[str, str]]
    """Kind and description of each set of images."""
    scores: Sequence[Score]
    gains: Sequence[Gain] = ()
    claims: Sequence[Claim] = ()
    histograms: Sequence[RankHistogram] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Tiles and pairs that are not scored, and images that could not be, by reason."""
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "settings": dict(self.settings),
            "systems": {
                name: {"kind": kind, "description": words}
                for name, (kind, words) in self.systems.items()
            },
            "claims": [asdict(claim) for claim in self.claims],
            "gains": [{**asdict(gain), "verdict": gain.verdict} for gain in self.gains],
            "scores": [asdict(score) for score in self.scores],
            "histograms": [asdict(one) for one in self.histograms],
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
        }


def write_numbers(
    folder: Path, report: EvolutionReport, tables: Mapping[str, pd.DataFrame]
) -> list[Path]:
    """Write all files of numbers; each is whole or not there.

    Args:
        folder: Where they go; made if absent.
        report: What was found.
        tables: Measured table of each system by pair, the real targets under `OBSERVED`.

    Returns:
        The files.

    Raises:
        RequestError: If there are no real targets among the tables.
    """
    if OBSERVED not in tables:
        raise RequestError(f"No table is named {OBSERVED!r}. Give that of the real targets.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SCORES_FILE, report.to_dict())
    names = [*Gain.__annotations__, "verdict"]
    rows = [{**asdict(one), "verdict": one.verdict} for one in report.gains]
    gains = pd.DataFrame(rows, columns=names)
    for name, table in ((TABLE_FILE, to_frame(report.scores)), (GAINS_FILE, gains)):
        with replacing(folder / name) as temporary:
            table.to_csv(temporary, index=False)
    with replacing(folder / PAIRS_FILE) as temporary:
        joined = pd.concat([table.assign(system=name) for name, table in tables.items()])
        joined.to_parquet(temporary)
    return [folder / name for name in (SCORES_FILE, TABLE_FILE, GAINS_FILE, PAIRS_FILE)]
