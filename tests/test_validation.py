"""Held-out loss: every level seen alike, the same noise always, masks without influence."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from ecomap.conditions import TextEmbedding
from ecomap.errors import DataError, DivergenceError
from ecomap.learner import FlowBatch, FlowLearner
from ecomap.model import load_bundle, predict_velocity
from ecomap.validation import (
    NUM_LEVELS,
    evaluating,
    held_out_rows,
    shuffled,
    validation_loss,
)
from tests.fakes import write_random_bundle

LATENTS = (16, 4, 4)
SEED = 5


def pairs(rows):
    return list(zip(rows.index.tolist(), rows.level.tolist(), strict=True))


@pytest.mark.parametrize("num", [*range(1, 40), 63, 64, 65, 100, 192])
def test_levels_have_equally_many_frames_and_at_least_eight_or_all(num):
    found = pairs(held_out_rows(num, seed=SEED))
    counts = np.bincount([level for _, level in found], minlength=NUM_LEVELS)
    assert len(set(found)) == len(found)
    assert set(np.bincount([frame for frame, _ in found])) == {len(found) // num}
    assert counts.max() - counts.min() <= 1
    assert counts.min() >= min(8, num)
    assert num < 64 or len(found) == num


def test_frames_are_dealt_to_levels_by_seed_and_not_in_their_order():
    rows = held_out_rows(96, seed=SEED)
    assert pairs(rows) == pairs(held_out_rows(96, seed=SEED))
    assert set(pairs(rows)) != set(pairs(held_out_rows(96, seed=SEED + 1)))
    assert any(frame % NUM_LEVELS != level for frame, level in pairs(rows))
    assert rows.sigma.unique().tolist() == [(level + 0.5) / 8 for level in range(8)]


@pytest.mark.parametrize("num", [2, 3, 4, 5, 24])
def test_a_shuffled_frame_is_told_another_one_and_stays_itself(num):
    rows = held_out_rows(num, seed=SEED)
    other = shuffled(rows, num)
    assert pairs(other) == pairs(rows)
    assert not (other.told == other.index).any()
    assert set(other.told.tolist()) == set(range(num))


def test_noise_belongs_to_frame_and_level_in_whichever_batch():
    rows = held_out_rows(20, seed=SEED)
    noise = rows.noise(SEED, LATENTS)
    picked = torch.tensor([7, 3])
    torch.testing.assert_close(rows.rows(picked).noise(SEED, LATENTS), noise[picked])
    assert len(noise.flatten(1).unique(dim=0)) == len(noise)
    assert not torch.equal(noise, rows.noise(SEED + 1, LATENTS))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


@dataclass
class World:
    """Batches of made-up latents for a tiny learner."""

    learner: FlowLearner
    clean: torch.Tensor
    text: TextEmbedding
    weights: torch.Tensor | None = None

    def batch(self, rows):
        return FlowBatch(
            clean=self.clean[rows.index],
            noise=rows.noise(SEED, LATENTS),
            sigma=rows.sigma,
            text=self.text.rows(rows.told),
            climate=None,
            has_tokens=torch.zeros(len(rows.index), dtype=torch.bool),
            weights=None if self.weights is None else self.weights[rows.index],
        )

    def loss(self, batch_size=16):
        return validation_loss(
            self.learner, self.batch, num_frames=len(self.clean), seed=SEED, batch_size=batch_size
        )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    from ecomap.card import BundleCard

    card = BundleCard(name="tiny", image_size_px=32, doors=("text",))
    return load_bundle(
        write_random_bundle(tmp_path_factory.mktemp("bundle"), card, dtype=torch.float32),
        device="cpu",
    ).transformer


@pytest.fixture
def world(network):
    generator = torch.Generator().manual_seed(1)
    text = TextEmbedding(
        torch.randn(12, 77, 32, generator=generator),
        torch.randn(12, int(network.config.pooled_projection_dim), generator=generator),
    )
    clean = torch.randn(12, *LATENTS, generator=generator)
    return World(FlowLearner(network, text_encoders=None), clean, text)


def test_the_loss_is_the_mean_over_levels_of_each_level_s_squared_error(world):
    found = world.loss()
    rows = held_out_rows(12, seed=SEED)
    errors = {level: [] for level in range(NUM_LEVELS)}
    for number, (frame, level) in enumerate(pairs(rows)):
        row = rows.rows(torch.tensor([number]))
        clean, noise = world.clean[frame][None], row.noise(SEED, LATENTS)
        noisy = (1 - row.sigma) * clean + row.sigma * noise
        condition = world.learner.condition(world.batch(row))
        with torch.no_grad():
            velocity = predict_velocity(world.learner.transformer, noisy, row.sigma, condition)
        errors[level].append(float(((velocity - (noise - clean)) ** 2).mean()))
    means = [np.mean(values) for values in errors.values()]
    assert found["val_loss"] == pytest.approx(np.mean(means), rel=1e-5)
    named = {
        f"val_loss_sigma_{(k + 0.5) / 8:.4f}": pytest.approx(means[k], rel=1e-5) for k in range(8)
    }
    assert {k: v for k, v in found.items() if "sigma" in k} == named
    assert set(found) == {"val_loss", "val_loss_shuffled", *named}
    assert found["val_loss_shuffled"] != found["val_loss"]


def test_the_size_of_batches_does_not_matter(world):
    assert world.loss(batch_size=5) == pytest.approx(world.loss(batch_size=64), rel=1e-5)


def test_masked_cells_have_no_weight_and_the_rest_all_of_it(world):
    plain = world.loss()
    world.weights = torch.full((12, 1, 4, 4), 0.25)
    assert world.loss() == pytest.approx(plain, rel=1e-5)

    world.weights = torch.ones(12, 1, 4, 4)
    world.weights[::3] = 0
    world.weights[1::3, :, 2:] = 0
    rows = held_out_rows(12, seed=SEED)
    batch = world.batch(rows)
    with torch.no_grad():
        condition = world.learner.condition(batch)
        sigma = rows.sigma[:, None, None, None]
        noisy = (1 - sigma) * batch.clean + sigma * batch.noise
        velocity = predict_velocity(world.learner.transformer, noisy, rows.sigma, condition)
    squares = (velocity - (batch.noise - batch.clean)).square()
    expected = []
    for level in range(NUM_LEVELS):
        of_level = rows.level == level
        valid = batch.weights[of_level].expand(-1, 16, -1, -1) > 0
        expected.append(float(squares[of_level][valid].mean()))
    assert world.loss()["val_loss"] == pytest.approx(np.mean(expected), rel=1e-5)


class Told(nn.Module):
    """Loss of 1 for who is told of another frame; of 5 while dropout is on."""

    def __init__(self):
        super().__init__()
        self.learns, self.frozen = nn.Dropout(), nn.Dropout()
        self.train()
        self.frozen.eval()

    def forward(self, batch):
        loss = (batch.text.pooled[:, 0] != batch.clean[:, 0, 0, 0]).float()
        return loss + 4 * self.learns.training


def numbered(rows, **changes):
    count = len(rows.index)
    frame = rows.index.float()[:, None, None, None].expand(count, 1, 1, 1)
    batch = FlowBatch(
        clean=frame, noise=frame, sigma=rows.sigma,
        text=TextEmbedding(torch.zeros(count, 1, 1), rows.told.float()[:, None]),
        climate=None, has_tokens=torch.zeros(count, dtype=torch.bool),
    )  # fmt: skip
    return replace(batch, **changes)


def test_only_the_shuffled_loss_is_told_of_other_frames_and_dropout_is_off():
    learner = Told()
    found = validation_loss(learner, numbered, num_frames=20, seed=0, batch_size=7)
    assert found["val_loss"] == 0
    assert found["val_loss_shuffled"] == 1
    assert learner.training
    assert learner.learns.training
    assert not learner.frozen.training


def test_modes_come_back_after_an_error():
    learner = Told()

    def stop():
        with evaluating(learner):
            assert not learner.learns.training
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop()
    assert learner.learns.training
    assert not learner.frozen.training


def test_a_single_frame_has_no_other_to_be_told_of():
    found = validation_loss(Told(), numbered, num_frames=1, seed=0, batch_size=4)
    assert "val_loss_shuffled" not in found
    assert len(found) == 1 + NUM_LEVELS


def test_nothing_to_measure_is_an_error_that_says_so():
    with pytest.raises(DataError, match="no frames held out"):
        validation_loss(Told(), numbered, num_frames=0, seed=0, batch_size=4)

    def masked(rows):
        return numbered(rows, weights=(rows.level != 3).float()[:, None, None, None])

    with pytest.raises(DataError, match=r"noise level 0\.4375 are masked whole"):
        validation_loss(Told(), masked, num_frames=9, seed=0, batch_size=4)


def test_a_loss_that_is_no_number_is_an_error_that_names_the_level():
    class Diverged(Told):
        def forward(self, batch):
            return torch.where(batch.sigma > 0.9, torch.nan, 1.0)

    with pytest.raises(DivergenceError, match=r"noise level 0\.9375 is nan"):
        validation_loss(Diverged(), numbered, num_frames=9, seed=0, batch_size=4)
