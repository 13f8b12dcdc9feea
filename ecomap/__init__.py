"""Satellite images of places under a climate: prepare data, train, generate.

The public verbs are the names below. Each is imported when it is first used, so that
``import ecomap`` is quick and does not import torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.bluemarble import import_bluemarble
    from data_prep.check import check_dataset
    from data_prep.ecomapper import import_ecomapper
    from data_prep.splits import split_dataset
    from data_prep.timelines import open_timelines
    from ecomap.bundle_paths import bundle_names, bundle_path
    from ecomap.compare_reports import compare_runs
    from ecomap.config import dump_config, load_config
    from ecomap.demo import demo
    from ecomap.errors import EcomapError
    from ecomap.evaluate import evaluate
    from ecomap.evolve import evolve
    from ecomap.generate import generate
    from ecomap.model import load_bundle
    from ecomap.normals import open_normals
    from ecomap.request import place_record
    from ecomap.sample import generate_images
    from ecomap.schema import TileRecord, make_record, read_dataset, write_dataset
    from ecomap.train import train

__version__ = "0.1.0"

_MODULES = {
    "EcomapError": "ecomap.errors",
    "TileRecord": "ecomap.schema",
    "bundle_names": "ecomap.bundle_paths",
    "bundle_path": "ecomap.bundle_paths",
    "check_dataset": "data_prep.check",
    "demo": "ecomap.demo",
    "compare_runs": "ecomap.compare_reports",
    "dump_config": "ecomap.config",
    "evaluate": "ecomap.evaluate",
    "evolve": "ecomap.evolve",
    "generate": "ecomap.generate",
    "generate_images": "ecomap.sample",
    "import_bluemarble": "data_prep.bluemarble",
    "import_ecomapper": "data_prep.ecomapper",
    "load_bundle": "ecomap.model",
    "load_config": "ecomap.config",
    "make_record": "ecomap.schema",
    "open_normals": "ecomap.normals",
    "open_timelines": "data_prep.timelines",
    "place_record": "ecomap.request",
    "read_dataset": "ecomap.schema",
    "split_dataset": "data_prep.splits",
    "train": "ecomap.train",
    "write_dataset": "ecomap.schema",
}

__all__ = [
    "EcomapError",
    "TileRecord",
    "bundle_names",
    "bundle_path",
    "check_dataset",
    "compare_runs",
    "demo",
    "dump_config",
    "evaluate",
    "evolve",
    "generate",
    "generate_images",
    "import_bluemarble",
    "import_ecomapper",
    "load_bundle",
    "load_config",
    "make_record",
    "open_normals",
    "open_timelines",
    "place_record",
    "read_dataset",
    "split_dataset",
    "train",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ecomap' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]


class _Package(ModuleType):
    """Keeps ``ecomap.generate`` and the like the verbs, not the modules they are in."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing ecomap.generate would bind that name to the module.
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
