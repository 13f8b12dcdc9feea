"""From records to what a training step reads: latents, encoded once and kept on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from rich.progress import Progress
from safetensors import SafetensorError
from torch import Tensor

from ecomap.errors import BundleError, DataError
from ecomap.imagery import FrameReader
from ecomap.latents import encode, to_pixels
from ecomap.schema import TileRecord, write_json

Vae: TypeAlias = "AutoencoderKL | AutoencoderTiny"


def load_vae(folder: Path) -> Vae:
    """Load a frozen autoencoder in diffusers layout, whichever of the two kinds it is.

    Raises:
        BundleError: If the folder holds none.
    """
    try:
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
        classes = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
        vae: Vae = classes[kind].from_pretrained(folder, local_files_only=True)
    except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(
            f"{folder} holds no autoencoder ({error!r}). Expected AutoencoderKL or AutoencoderTiny "
            "in diffusers layout."
        ) from None
    return vae.eval().requires_grad_(False)


def cache_key(vae: Vae, records: Sequence[TileRecord], folder: Path) -> str:
    """Hash of everything that decides the latents: weights, frames, and which part of them."""
    digest = hashlib.sha256()
    digest.update(f"{vae.config.shift_factor}:{vae.config.scaling_factor}".encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    for path in sorted({record.image_path or "" for record in records}):
        with (folder / path).open("rb") as file:
            digest.update(path.encode() + hashlib.file_digest(file, "sha256").digest())
    for record in records:
        parts = (record.tile_id, record.image_path, record.window_px, record.reflectance_range)
        digest.update(":".join(map(str, parts)).encode())
    return digest.hexdigest()[:16]


def cached_latents(
    vae: Vae,
    records: Sequence[TileRecord],
    folder: Path,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> np.ndarray:
    """Latents of records, from disk where they are there already.

    Frames are read in the order of their files, so that each mosaic is decoded once; the result is
    in the order of the records. Interrupted work goes on where it stopped.

    Args:
        vae: Frozen autoencoder.
        records: Records of one size.
        folder: Dataset folder.
        cache: Folder of all caches.
        device: Where to encode.
        bf16: Encode under bfloat16 autocast: several times faster on a CPU that has it, and
            latents differ by about half a percent of their spread.
        batch_size: Frames at a time.
        progress: Shows how far it is.

    Returns:
        float16 memory map ``(N, 16, h, w)``, read-only.

    Raises:
        DataError: If the records have several sizes.
    """
    sizes = {(record.height_px, record.width_px) for record in records}
    if len(sizes) != 1:
        raise DataError(
            f"The records of {folder} have sizes {sorted(sizes)}. Expected one size; train on one "
            "dataset at a time."
        )
    vae.to(device, memory_format=torch.channels_last)
    suffix = "_bf16" if bf16 else ""
    path = cache / f"latents_{cache_key(vae, records, folder)}{suffix}.npy"
    if not path.exists():
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            _encode_all(vae, records, folder, path, sizes.pop(), device, batch_size, progress)
    stored: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return stored


def _encode_all(
    vae: Vae,
    records: Sequence[TileRecord],
    folder: Path,
    path: Path,
    size: tuple[int, int],
    device: torch.device | str,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Fill a file beside the final one, remembering how far it is, and rename it when full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, done_path = path.with_suffix(".partial.npy"), path.with_suffix(".done.json")
    shape = (len(records), 16, size[0] // 8, size[1] // 8)
    done = json.loads(done_path.read_text())["done"] if done_path.exists() else 0
    mode = "r+" if done and partial.exists() else "w+"
    latents = np.lib.format.open_memmap(partial, mode, dtype=np.float16, shape=shape)
    order = sorted(range(len(records)), key=lambda i: (records[i].image_path or "", i))
    reader = FrameReader(folder)
    task = None
    if progress:
        task = progress.add_task("encoding", total=len(records), completed=done, loss=float("nan"))
    for start in range(done if mode == "r+" else 0, len(order), batch_size):
        index = order[start : start + batch_size]
        frames = np.stack([reader.read(records[i]) for i in index])
        pixels = to_pixels(torch.from_numpy(frames))
        pixels = pixels.to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            latents[index] = encode(vae, pixels).float().cpu().numpy()
        if progress and task is not None:
            progress.update(task, completed=start + len(index))
        if start // batch_size % 50 == 0:
            latents.flush()
            write_json(done_path, {"done": start + len(index)})
    latents.flush()
    partial.replace(path)
    done_path.unlink(missing_ok=True)


def gather(latents: np.ndarray, index: Tensor) -> Tensor:
    """Some rows of a memory map as float32."""
    return torch.from_numpy(latents[index.numpy()].astype(np.float32))
