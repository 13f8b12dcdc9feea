"""Measures of image sets, kept chunk by chunk, so that an interrupted evaluation goes on."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap.evaluate_config import EvaluateConfig
from ecomap.features import open_space
from ecomap.image_subsets import signature_of, take
from ecomap.measure import measure_set
from ecomap.schema import write_json
from ecomap.tiles import ImageSet, Measured
from ecomap.versions import versions

CHUNK = 2048
"""Images measured and kept at a time."""

TABLE_FILE, PROBLEMS_FILE = "table.parquet", "problems.json"

RELEVANT = ("size_px", "features", "max_masked_frac")
"""Settings that decide what is measured."""

Progress = Callable[[int, int], None]


def measure_kept(
    images: ImageSet,
    folder: Path,
    *,
    reference: ImageSet | None,
    config: EvaluateConfig,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure a set, taking from ``folder`` what an earlier run with the same images left there.

    Args:
        images: Set to measure.
        folder: Its own folder. A chunk is kept where all its images have a signature
            (`ecomap.image_subsets.signature_of`).
        reference: Real images of the same keys, for paired measures.
        config: Settings.
        executor: Where images are measured; this process by default.
        progress: Called with (done, total) images.
    """
    real = {} if reference is None else {t.key: i for i, t in enumerate(reference.tiles)}
    parts = []
    for start in range(0, len(images.tiles), CHUNK):
        indices = range(start, min(start + CHUNK, len(images.tiles)))
        part, digest = take(images, indices), _digest(images, indices, reference, real, config)
        kept = None if digest is None else folder / digest
        found = None if kept is None else _read(kept, part)
        if found is None:
            found = measure_set(
                part,
                spaces=config.features,
                reference=reference,
                config=config,
                executor=executor,
                progress=_shifted(progress, start, len(images.tiles)),
            )
            if kept is not None:
                _write(kept, found)
        parts.append(found)
    return _join(parts, folder)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)


def _digest(
    images: ImageSet,
    indices: Iterable[int],
    reference: ImageSet | None,
    real: Mapping[str, int],
    config: EvaluateConfig,
) -> str | None:
    """What decides the measures of a chunk; None where that is not known of an image."""
    seen = []
    for index in indices:
        tile = images.tiles[index]
        signatures = [signature_of(images, index)]
        if reference is not None and tile.key in real:
            signatures.append(signature_of(reference, real[tile.key]))
        if None in signatures:
            return None
        seen.append([replace(tile, record=None), *signatures])
    settings = config.model_dump(mode="json", include=set(RELEVANT))
    spaces = {name: open_space(name).identity for name in config.features}
    content = [settings, spaces, versions(), seen]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:24]


def _write(folder: Path, measured: Measured) -> None:
    """Keep a chunk by an atomic rename."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    measured.table.reset_index().to_parquet(temporary / TABLE_FILE, index=False)
    for kind, arrays in (
        ("features", measured.features),
        ("probabilities", measured.probabilities),
    ):
        for number, (_, array) in enumerate(arrays.items()):
            np.save(temporary / f"{kind}-{number}.npy", array, allow_pickle=False)
    names = {"features": list(measured.features), "probabilities": list(measured.probabilities)}
    problems = {reason: list(keys) for reason, keys in measured.problems.items()}
    write_json(temporary / PROBLEMS_FILE, names | {"problems": problems})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _read(folder: Path, part: ImageSet) -> Measured | None:
    """A kept chunk, None where there is none or it is damaged."""
    try:
        content = json.loads((folder / PROBLEMS_FILE).read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / TABLE_FILE).set_index("key")
        arrays = {
            kind: {
                name: np.load(folder / f"{kind}-{number}.npy", mmap_mode="r", allow_pickle=False)
                for number, name in enumerate(content[kind])
            }
            for kind in ("features", "probabilities")
        }
    except (OSError, ValueError, KeyError):
        return None
    problems = content["problems"]
    return Measured(part.name, part.kind, part.description, table, **arrays, problems=problems)


def _join(parts: Sequence[Measured], folder: Path) -> Measured:
    """Chunks as one; features of several are copied to one file on disk, never into memory."""
    first = parts[0]
    if len(parts) == 1:
        return first
    problems: dict[str, list[str]] = {}
    for part in parts:
        for reason, keys in part.problems.items():
            problems.setdefault(reason, []).extend(keys)
    return Measured(
        first.name,
        first.kind,
        first.description,
        pd.concat([part.table for part in parts]),
        features=_concatenate([part.features for part in parts], folder / "features"),
        probabilities=_concatenate(
            [part.probabilities for part in parts], folder / "probabilities"
        ),
        problems=problems,
    )


def _concatenate(
    parts: Sequence[Mapping[str, NDArray[np.float32]]], stem: Path
) -> dict[str, NDArray[np.float32]]:
    """Rows of all parts, by name, as memory maps."""
    joined: dict[str, NDArray[np.float32]] = {}
    for number, name in enumerate(parts[0]):
        rows = sum(len(part[name]) for part in parts)
        path = stem.with_name(f"{stem.name}-{number}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        target = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=(rows, parts[0][name].shape[1])
        )
        start = 0
        for part in parts:
            target[start : start + len(part[name])] = part[name]
            start += len(part[name])
        target.flush()
        joined[name] = target
    return joined
