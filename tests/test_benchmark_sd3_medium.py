"""The step at real size is one of a training: tried here with a small base."""

import pytest
import torch

from benchmarks.sd3_medium import KINDS, make_optimizer, one_step, settings, write_one_tile
from ecomap.card import BundleCard
from ecomap.train_estimate import estimate
from tests.fakes import write_random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    card = BundleCard(name="made", image_size_px=16, t5_null_tokens=5)
    return str(write_random_bundle(tmp_path_factory.mktemp("bundle"), card))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_moves_what_learns(kind, bundle, tmp_path):
    config = settings(kind, bundle, 32, write_one_tile(tmp_path, 32))
    took = one_step(config, 32)
    assert took["loss"] > 0
    assert took["gradient_norm"] > 0
    assert took["moved_tensors"] > 0
    told = estimate(config)
    assert took["learning"] == sum(part.learning for part in told.parts.values())
    assert took["parameters"] == sum(part.parameters for part in told.parts.values())


def test_optimizers_are_those_of_the_settings(tmp_path):
    dataset = write_one_tile(tmp_path, 16)
    made = [
        make_optimizer(
            [torch.nn.Parameter(torch.zeros(2, 2))], settings(kind, "x", 16, dataset).optim
        )
        for kind in KINDS
    ]
    assert isinstance(made[0], torch.optim.AdamW)
    assert isinstance(made[1], torch.optim.Adafactor)
