"""A made-up world for tests: small, asymmetric, and built by code."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ecomap.card import BundleCard
from ecomap.schema import LandCover, TileRecord, make_record, write_dataset

TINY_SIZE_PX = 16


def make_tile(**changes) -> TileRecord:
    """One valid record; keywords replace fields."""
    fields = {
        "source": "made", "batch": "a", "location_id": "1", "month": "2021-03", "lat": 10.0,
        "lon": 20.0, "ground_sampling_distance_m": 10.0, "width_px": 16, "height_px": 16,
        "land_cover": LandCover.GRASSLANDS, "temperature_c": 4.5, "precipitation_mm_day": 1.25,
        "license": "none",
    }  # fmt: skip
    return make_record(fields | changes, where="test")


def made_image(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth image without symmetries, uint8 ``(height, width, 3)``."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_tiles(folder: Path, *, num_places: int = 12, size_px: int = TINY_SIZE_PX) -> Path:
    """A dataset of small frames, three months a place, split 8 : 2 : rest."""
    records = []
    for place in range(num_places):
        split = "train" if place < num_places - 4 else ("val", "test")[place % 2]
        for month in (1, 5, 9):
            name = f"images/{place}_{month}.png"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            image = made_image(100 * place + month, size_px, size_px)
            Image.fromarray(image).save(folder / name)
            normals = tuple(float(place + m) for m in range(12))
            records.append(
                make_tile(
                    location_id=str(place), month=f"2004-{month:02d}", lat=2.0 * place,
                    image_path=name, split=split, climate_kind="normal", width_px=size_px,
                    height_px=size_px, temperature_c=normals[month - 1],
                    temperature_c_normals=normals,
                    temperature_c_history=tuple(np.roll(normals, 1 - month).tolist()),
                )
            )  # fmt: skip
    write_dataset(folder, records)
    return folder


def write_vae(folder: Path) -> Path:
    """An untrained autoencoder of SD3's latent geometry, as small as can be."""
    from ecomap.autoencoder import build_autoencoder

    torch.manual_seed(3)
    build_autoencoder((8, 8, 8, 8), image_size_px=TINY_SIZE_PX).save_pretrained(folder)
    return folder


def write_mosaics(folder: Path, *, height: int = 384) -> Path:
    """Twelve global mosaics (land anywhere: the table of normals decides) and a void block."""
    folder.mkdir(parents=True, exist_ok=True)
    for month in range(1, 13):
        image = Image.fromarray(made_image(month, height, 2 * height))
        image.save(folder / f"2004-{month:02d}.jpg", quality=95)
    void = {"row0": 40, "row1": 60, "col0": 500, "col1": 540}
    (folder / "void_blocks.json").write_text(json.dumps([void]))
    return folder


def write_random_bundle(
    folder: Path, card: BundleCard, *, dtype: torch.dtype = torch.float16
) -> Path:
    """A bundle of the smallest sizes, its zero-initialised weights filled so that all matters."""
    from ecomap.autoencoder import load_vae
    from ecomap.build import build_bundle
    from ecomap.model import save_bundle
    from ecomap.transformer_config import TransformerConfig

    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=2, num_heads=2, head_width=8, joint_attention_width=40, max_latent_side=8,
        text_width=16, text_heads=2, climate_width=24, climate_layers=1,
    )  # fmt: skip
    bundle = build_bundle(config, card, load_vae(write_vae(folder / "source_vae")), 1.0)
    for module in bundle.modules().values():
        for parameter in module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    save_bundle(bundle, folder / "bundle", dtype=dtype)
    return folder / "bundle"
