"""A random model with a random ControlNet that edits: small, saved and loaded."""

from pathlib import Path

import torch

from ecomap.bundle_paths import CONTROLNET_FOLDER
from ecomap.card import BundleCard
from ecomap.controlnet import build_controlnet
from ecomap.controlnet_files import save_controlnet
from ecomap.controls import ControlSpec
from ecomap.edit import EditHead
from ecomap.model import load_bundle
from tests.fakes import TINY_SIZE_PX, write_random_bundle

CARD = BundleCard(
    name="made",
    image_size_px=TINY_SIZE_PX,
    ground_sampling_distance_m=10,
    doors=("text", "tokens"),
    grid="utm",
)
SPEC = ControlSpec(
    channels=("reference_valid", "months_gap", "reference_sin", "reference_cos", "temperature_now",
              "temperature_change"),
    min_gap_months=0, max_gap_months=11, wrap_year=True, edit=True,
)  # fmt: skip


def write_evolver(folder: Path) -> Path:
    """A bundle with a ControlNet in it, whose zero parts are filled so that all matters."""
    path = write_random_bundle(folder, CARD)
    made = load_bundle(path, device="cpu")
    torch.manual_seed(5)
    net = build_controlnet(made.transformer, num_layers=1, extra_channels=SPEC.num_extra)
    head = EditHead.beside(net, 16 + SPEC.valid_channel)
    for network in (net, head):
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    save_controlnet(net, SPEC, {}, path / CONTROLNET_FOLDER, base=made.transformer, edit_head=head)
    return path
