"""What the verbs of `ecomap prep` say when they are done."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.build import BuildSummary


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What is to be fetched."""

    output: Path
    places: int
    months: int
    tiles: int
    tiles_without_scene: int
    """Tiles that will be empty: no scene of their month touches them."""
    scenes: int
    splits: dict[str, int]
    strata: dict[str, int]
    dropped: dict[str, int]
    """Cells that did not become places, and items that did not become scenes, by reason."""
    notes: list[str]
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output), "page": str(self.page)}


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What became of the tasks."""

    output: Path
    states: dict[str, dict[str, int]]
    """Step -> state -> tasks."""
    reasons: dict[str, dict[str, int]]
    """Step -> why tasks are empty or failed."""
    failures: list[str]
    """Failed tasks with their reasons; the next run tries them again."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """All steps."""

    plan: PlanSummary
    fetch: FetchSummary
    build: BuildSummary | None
    """None where all tiles failed."""
    report: Path | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``failures`` of all steps."""
        last = (self.build or self.fetch).to_dict()
        content: dict[str, Any] = {"plan": self.plan.to_dict(), "fetch": self.fetch.to_dict()}
        content["build"] = self.build and self.build.to_dict()
        content["report"] = self.report and str(self.report)
        for part in ("fetch", "build"):
            (content[part] or {}).pop("failures", None)
        return content | {"failures": last["failures"]}
