"""Words and numbers around the held-out scores: how they were made, and how to read them."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecomap.card import BundleCard, training_digests
from ecomap.features import FEATURE_SPACES
from ecomap.heldout_data import Report, Sample, Settings
from ecomap.model import Bundle
from ecomap.places import block_of, first_record
from ecomap.sample import SOLVER, computing
from ecomap.schema import RECORDS_FILE
from ecomap.versions import fingerprint, versions


def provenance(bundle: Bundle, dataset: Path, output: Path, settings: Settings) -> Report:
    """Everything that is needed to get the same numbers again."""
    words = ["python", "benchmarks/heldout.py", "--bundle", bundle.name]
    words += ["--dataset", str(dataset), "--output", str(output)]
    for name, value in asdict(settings).items():
        flag = f"--{name.removeprefix('num_').replace('_', '-')}"
        words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return {
        "command": shlex.join(words),
        "settings": asdict(settings),
        "bundle": bundle.identity,
        "dataset": {"folder": str(dataset), "sha256": fingerprint([dataset / RECORDS_FILE])},
        **made_by(bundle),
    }


def made_by(bundle: Bundle) -> dict[str, Any]:
    """What images depend on beside the settings."""
    return {"solver": SOLVER, **computing(bundle.device), "versions": versions()}


def describe(sample: Sample, card: BundleCard) -> Report:
    """What was scored, what was left out, and how to read the numbers."""
    places = [first_record(place) for place in sample.chosen]
    blocks = {block_of(place) for place in places}
    notes = [NOTES["intervals"].format(num=len(blocks)), *list(NOTES.values())[1:]]
    seen = training_digests(card)
    if seen != {sample.training_digest}:
        notes.insert(0, UNSURE_NOTE)
    if any(place.climate_kind == "normal" for place in places):
        notes.insert(0, NORMALS_NOTE)
    if any(place.source == "bluemarble" for place in places):
        notes.insert(0, BLUE_MARBLE_NOTE)
    return {
        "sample": {
            "num_places": len(places),
            "num_images": len(sample.records),
            "num_blocks": len(blocks),
            "usable_places": {split: len(group) for split, group in sample.places.items()},
            "left_out_places": sample.dropped,
            "training_places_are_the_bundles": (
                None if None in seen else seen == {sample.training_digest}
            ),
            "land_covers": Counter(p.land_cover.label for p in places if p.land_cover),
            "places": [
                {"place_id": place.place_id, "lat": place.lat, "lon": place.lon} for place in places
            ],
        },
        "notes": notes,
        "feature_spaces": {name: space.description for name, space in FEATURE_SPACES.items()},
    }


BLUE_MARBLE_NOTE = (
    "The frames are Blue Marble: cloud-free, colour-corrected monthly composites of 2004 at about "
    "7.4 km a pixel. They are not Sentinel-2 tiles, and no number here may be set beside one that "
    "was measured on 10 m imagery."
)
NORMALS_NOTE = (
    "The climate given to the model is a long-term mean, the frames show one year: the weather of "
    "that year is part of every error."
)
UNSURE_NOTE = (
    "The bundle's card does not name this dataset's training side as what it learnt from: whether "
    "it has seen the scored places is not known, and the scores may flatter it."
)
NOTES = {
    "intervals": "Intervals are 95 % percentile intervals of a bootstrap over cells of 10 degrees; "
    "the scored places lie in {num} cells, and few cells make wide and rough intervals.",
    "land": "Greenness is the mean of G/(R+G+B) over land pixels, snow the fraction of land pixels "
    "that are bright and grey. Each image is read over its own land (pixels that are neither as "
    "dark as deep water nor dark blue), because no condition says where the coast runs.",
    "anomaly": "An anomaly is a value minus the mean of its place over the scored months. It is "
    "undefined where a method gives a place the same value in all months.",
    "noise": "All months of a place share their noise, except without conditions, where each image "
    "has its own: its months would otherwise be one picture repeated.",
    "psnr": "PSNR to the real month is no target: noise decides where things lie in a generated "
    "image, and a blurred picture would score higher.",
    "frechet": "Every distance compares equal numbers of images. The Fréchet distance is biased "
    "upwards at small numbers, so that it can be compared only inside this table; the kernel "
    "distance is not biased, and its deviation is that of overlapping random subsets.",
    "real": "Real against real compares the scored test places with other test places, or one half "
    "of them with the other where there are too few. Windows of neighbours overlap, which flatters "
    "this floor; where halves are compared, its number of images is smaller than the others'.",
    "analogue": "The nearest climate analogue is a real frame of a training place, in the same "
    "month: it is real by construction and cannot follow a climate that no place has.",
    "response": "Observed slopes are not effects: across places and over months, radiation, soils "
    "and people differ along with the climate. The generated slope is the model's effect of a "
    "change sustained over all months that it sees; its nearest observed kin is the slope across "
    "places of a class in the same month.",
}
"""How to read the report, in the order in which it is told."""


def plain(value: Any) -> Any:
    """JSON without NaN or infinity, which JSON does not know: they become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
