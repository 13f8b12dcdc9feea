"""Tables beside the records: prompts for readers, and changes of climate by scenario."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.climate_delta import Delta
from data_prep.manifest import read_manifest
from ecomap.prompt import PromptChoice, write_prompt
from ecomap.schema import TileRecord

PROMPTS_FILE, SCENARIOS_FILE = "prompts.parquet", "scenarios.parquet"


def write_prompts(folder: Path, records: Sequence[TileRecord]) -> None:
    """Full prompts of all records, for readers; training draws its own variants."""
    prompts = [write_prompt(record, PromptChoice()) for record in records]
    columns = {
        "tile_id": [record.tile_id for record in records],
        "short": [prompt.short for prompt in prompts],
        "long": [prompt.long for prompt in prompts],
    }
    _write_table(folder / PROMPTS_FILE, pa.table(columns))


def write_scenarios(folder: Path) -> None:
    """Monthly changes of each scenario and climate cell: one row a variable and month."""
    rows = []
    for row in read_manifest(folder, kind="scenario"):
        if row.state != "done":
            continue
        delta = Delta.from_json(json.dumps(row.result), where=row.task_id)
        facts = {
            "scenario": delta.name,
            "model": delta.model,
            "experiment": delta.experiment,
            "member": delta.member,
            "baseline_years": "{}-{}".format(*delta.baseline_years),
            "horizon_years": "{}-{}".format(*delta.horizon_years),
            "climate_cell": row.task_id.partition("/")[2],
            "model_cell": delta.cell_id,
        }
        rows += [
            facts
            | {"variable": name, "month": month + 1, "kind": change.kind, "unit": change.unit}
            | {"value": change.values[month], "baseline": change.baseline[month]}
            | {"horizon": change.horizon[month], "is_capped": month + 1 in change.capped_months}
            for name, change in delta.changes.items()
            if change is not None
            for month in range(12)
        ]
    if rows:
        _write_table(folder / SCENARIOS_FILE, pa.Table.from_pylist(rows))
    else:
        (folder / SCENARIOS_FILE).unlink(missing_ok=True)


def _write_table(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)
