"""Reconstruction of held-out frames by a bundle's autoencoder, beside its teacher's.

    python benchmarks/autoencoder.py --bundle ecomap-tiny --teacher data/taesd3 DATASET...

Prints, for the test side of each dataset, the mean PSNR of central crops on uint8 levels, and the
mean distance between both latents in units of the teacher's spread.
"""

import argparse
import json
from pathlib import Path

import torch

from ecomap.autoencoder import Teacher, load_vae
from ecomap.bundle_paths import bundle_path
from ecomap.latents import encode
from ecomap.train_autoencoder import open_frames, reconstruction_psnr, validation_pixels


def main() -> None:
    """Score and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--bundle", default="ecomap-tiny", help="name, or folder")
    parser.add_argument("--teacher", type=Path, default=Path("data/taesd3"))
    parser.add_argument("--images", type=int, default=64, help="frames of each dataset")
    parser.add_argument("--size", type=int, default=128, help="side of a crop, px")
    arguments = parser.parse_args()
    vae, teacher = load_vae(bundle_path(arguments.bundle) / "vae"), Teacher(arguments.teacher)
    report = {}
    sources = open_frames(arguments.datasets, "test")
    for name, pixels in validation_pixels(sources, arguments.images, arguments.size).items():
        with torch.no_grad():
            own, target = encode(vae, pixels), teacher.encode(pixels)
        report[name] = {
            "images": len(pixels),
            "psnr_db": round(float(reconstruction_psnr(vae, pixels).mean()), 2),
            "teacher_psnr_db": round(float(reconstruction_psnr(teacher, pixels).mean()), 2),
            "latent_distance": round(float((own - target).abs().mean() / target.std()), 3),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
