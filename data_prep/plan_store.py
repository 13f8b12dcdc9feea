"""The folder of a plan, and whether it is the plan of a config."""

import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.prep_config import PrepConfig
from ecomap.errors import DataError, RequestError

PLAN_FOLDER = "plan"
PLACES_FILE, ITEMS_FILE, PLAN_FILE = "places.parquet", "items.parquet", "summary.json"
NOT_PLANNED = {"output", "engine", "climate", "land_cover", "scenarios", "place_names", "display"}
"""Settings that may change after the plan was made; of imagery those that say how to read."""
NOT_PLANNED_IMAGERY = {"timeout_s", "num_retries", "max_cloud_frac", "max_nodata_frac"} | {
    "max_candidates", "cloud_mask", "url"
}  # fmt: skip


def planned_settings(config: PrepConfig) -> dict[str, Any]:
    """Settings that a plan was made from."""
    content = config.model_dump(mode="json", exclude=NOT_PLANNED)
    imagery = content["imagery"]
    content["imagery"] = {k: v for k, v in imagery.items() if k not in NOT_PLANNED_IMAGERY}
    files = (config.region.path, config.region.points, config.sampling.land_cover_path)
    content["files"] = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path is not None and path.is_file()
    }
    return content


def stored_plan(folder: Path) -> dict[str, Any] | None:
    """Plan of an earlier call, if it was finished."""
    if not (folder / PLAN_FILE).is_file():
        return None
    try:
        content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        return {key: dict(content[key]) for key in ("settings", "summary")}
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"{folder / PLAN_FILE} is damaged. Delete {folder} and run 'ecomap prep plan' again."
        ) from None


def check_same_plan(old: dict[str, Any], new: dict[str, Any], config: PrepConfig) -> None:
    """Refuse to mix two plans in one folder."""
    changed = [
        f"{key}{'.' + inner if inner else ''}"
        for key in new
        for inner in (new[key] if isinstance(new[key], dict) else {"": None})
        if (old.get(key) or {} if inner else old).get(inner or key)
        != (new[key].get(inner) if inner else new[key])
    ]
    if changed:
        raise RequestError(
            f"{config.output} holds a plan of other settings ({', '.join(changed)} changed). "
            "Choose another output folder, or delete that one's plan/ to plan it anew."
        )
