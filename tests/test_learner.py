"""The learner: the loss of a sample in any batch, and what gives it no gradient."""

from dataclasses import replace

import pytest
import torch

from ecomap.card import DOORS, BundleCard
from ecomap.climate_encoder import climate_batch
from ecomap.conditions import embed_text, tokenize
from ecomap.learner import FlowBatch, FlowLearner
from ecomap.model import encode_condition, load_bundle, predict_velocity
from ecomap.prompt import Prompt
from tests.fakes import TINY_SIZE_PX, make_tile, write_random_bundle

PROMPTS = [
    Prompt("a satellite image of Savannas. 20 C.", "long"),
    Prompt("", ""),
    Prompt("a cloudy satellite image. 3.5 mm/day.", "longer"),
    Prompt("snow", ""),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    card = BundleCard(name="small", image_size_px=TINY_SIZE_PX, doors=DOORS)
    return load_bundle(write_random_bundle(tmp_path_factory.mktemp("b"), card), device="cpu")


@pytest.fixture
def learner(bundle):
    return FlowLearner(
        bundle.transformer,
        text_encoders=bundle.text_encoders,
        climate_encoder=bundle.climate_encoder,
    )


@pytest.fixture(scope="module")
def batch(bundle):
    generator = torch.Generator().manual_seed(1)
    records = [make_tile(temperature_c=float(t), month=f"2021-0{t + 1}") for t in range(4)]
    shape = (4, 16, 4, 4)
    return FlowBatch(
        clean=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        sigma=torch.tensor([0.1, 0.5, 0.9, 0.3]),
        text=tokenize(PROMPTS, bundle.tokenizers),
        climate=climate_batch(records),
        has_tokens=torch.tensor([True, True, False, True]),
    )


def test_the_loss_is_the_mean_squared_velocity_error_of_the_same_condition_as_in_sampling(
    bundle, learner, batch
):
    condition = encode_condition(bundle, PROMPTS, batch.climate, has_tokens=batch.has_tokens)
    sigma = batch.sigma[:, None, None, None]
    noisy = (1 - sigma) * batch.clean + sigma * batch.noise
    with torch.no_grad():
        velocity = predict_velocity(bundle.transformer, noisy, batch.sigma, condition)
        losses = learner(batch)
    expected = (velocity - (batch.noise - batch.clean)).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def test_a_sample_has_the_same_loss_in_any_part_of_a_batch(learner, batch):
    with torch.no_grad():
        whole = learner(batch)
        parts = [learner(batch.rows(slice(i, i + 1))) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-5, atol=1e-6)


def test_kept_embeddings_give_the_loss_of_the_texts_themselves(bundle, learner, batch):
    kept = replace(batch, text=embed_text(batch.text, bundle.text_encoders))
    without = FlowLearner(
        bundle.transformer, text_encoders=None, climate_encoder=bundle.climate_encoder
    )
    with torch.no_grad():
        torch.testing.assert_close(without(kept), learner(batch))


def test_masked_cells_give_no_gradient_and_clear_ones_the_same_as_without_a_mask(learner, batch):
    found = []
    hook = learner.transformer.register_forward_hook(
        lambda module, inputs, output: found.append(output[0].requires_grad_()) or output
    )
    for parameter in learner.parameters():
        parameter.requires_grad_(True)
    weights = torch.ones(4, 1, 4, 4)
    weights[:, :, :2] = 0
    weights[2] = 0
    gradients = []
    try:
        for masked in (replace(batch, weights=weights), batch):
            losses = learner(masked)
            (gradient,) = torch.autograd.grad(losses.sum(), found[-1])
            gradients.append(gradient)
    finally:
        hook.remove()
        learner.requires_grad_(False)
    hidden = (weights == 0).expand_as(gradients[0])
    assert not gradients[0][hidden].any()
    assert gradients[0][~hidden].any()
    torch.testing.assert_close(gradients[0][~hidden], gradients[1][~hidden])


def test_noise_is_mixed_in_float32_under_autocast(learner, batch):
    seen = []
    hook = learner.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    close = replace(batch, sigma=torch.full((4,), 0.0011))
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            losses = learner(close)
    finally:
        hook.remove()
    assert losses.dtype == torch.float32
    mixed = 0.9989 * batch.clean + 0.0011 * batch.noise
    torch.testing.assert_close(seen[0]["hidden_states"], mixed)
    torch.testing.assert_close(seen[0]["timestep"], torch.full((4,), 1.1))


def test_a_batch_is_cut_and_moved_whole(batch):
    part = batch.rows(slice(1, 3))
    assert len(part.climate) == len(part.text.clip_l) == len(part.clean) == 2
    assert part.null_tokens == batch.null_tokens
    assert part.weights is None
    assert part.to("meta").text.clip_g.device.type == "meta"
