"""What an evaluation gives to its caller, as JSON and as words for the terminal."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from ecomap.evaluation_report import Report, System
from ecomap.scores import Score, find

MAIN_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("greenness RMSE", "index_rmse", "gcc"),
    ("greenness r", "index_pearson", "gcc"),
    ("anomaly r", "anomaly_pearson", "gcc"),
    ("snow MAE", "index_mae", "snow_frac"),
    ("Fréchet (eo)", "frechet_distance", "eo"),
    ("Fréchet (EfficientNet)", "frechet_distance", "efficientnet_lite0"),
)
"""Heading, metric and detail of the columns on the terminal."""


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What an evaluation gave."""

    output: Path
    """Folder of the report."""
    report: Report

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Images to be scored that could not be, by reason."""
        return [
            {"system": system.name, "reason": reason, "images": len(keys)}
            for system in self.report.systems
            for reason, keys in system.problems.items()
            if system.kind == "generated"
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: files, counts, claims, and the scores over all images."""
        report = self.report
        return {
            "output": str(self.output),
            "report": str(self.output / "report.json"),
            "page": str(self.output / "index.html"),
            "systems": {one.name: {"kind": one.kind, "n": one.n} for one in report.systems},
            "inputs": [one.model_dump(mode="json") for one in report.inputs],
            "not_made": report.not_made,
            "notes": report.notes,
            "claims": [
                {"system": one.system, "claim": one.sentence, "verdict": one.verdict}
                for one in report.claims
            ],
            "scores": [_known(score) for score in report.scores if score.group_kind == "all"],
            "failures": self.failures,
        }

    def render(self) -> Group:
        """Words for the terminal: main scores, counts, claims."""
        report = self.report
        columns = [
            column
            for column in MAIN_COLUMNS
            if find(report.scores, metric=column[1], detail=column[2])
        ]
        table = Table(box=None, pad_edge=False)
        for heading in ("", "n", *(heading for heading, *_ in columns)):
            is_name = heading == ""
            table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
        for system in report.systems:
            if system.kind != "reference":
                table.add_row(*self._cells(system, columns))
        lines = [f"{one.verdict}: {one.sentence} ({one.system})" for one in report.claims]
        for one in report.inputs:
            left = ", ".join(f"{num} {reason}" for reason, num in one.dropped.items())
            lines.append(
                f"{one.name}: {one.kept} images scored" + (f"; left out: {left}" * bool(left))
            )
        lines += [note for one in report.inputs for note in one.notes]
        lines += [
            f"{one['system']}: {one['images']} images left out: {one['reason']}"
            for one in self.failures
        ]
        lines.append(f"Look at {self.output / 'index.html'}")
        return Group(table, *lines)

    def _cells(self, system: System, columns: list[tuple[str, str, str]]) -> list[str]:
        cells = [system.name.replace("_", " "), str(system.n)]
        for _, metric, detail in columns:
            found = find(
                self.report.scores, system=system.name, metric=metric, detail=detail,
                group_kind="all",
            )  # fmt: skip
            value = found[0].value if found else None
            cells.append("" if value is None else f"{value:.3g}")
        return cells


def _known(score: Score) -> dict[str, Any]:
    """Fields of a score that say something."""
    return {name: value for name, value in asdict(score).items() if value not in (None, "")}
