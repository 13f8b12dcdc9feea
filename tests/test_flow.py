"""Rectified-flow arithmetic: values by hand, identities, and the densities' closed forms."""

import math

import pytest
import torch

from ecomap import flow
from ecomap.errors import ConfigError

# B equals W on purpose: a per-image factor that broadcasts along W gives no error, only a wrong
# image. The second case has B != W, where the same slip raises.
SHAPES = [(5, 3, 4, 5), (2, 3, 4, 5)]

DENSITIES = ["uniform", "logit_normal", "mode", "cosmap"]

# One number per u, so that their mean is an integral over the density without random error.
EVEN_U = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


@pytest.fixture(params=SHAPES, ids=["B == W", "B != W"])
def batch(request):
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(request.param, generator=generator)
    noise = torch.randn(request.param, generator=generator)
    return clean, noise, torch.linspace(0.1, 0.9, request.param[0])


def test_add_noise_is_a_weighted_mean_of_data_and_noise():
    clean = torch.full((2, 3, 4, 5), 2.0)
    noise = torch.full((2, 3, 4, 5), 10.0)
    noisy = flow.add_noise(clean, noise, torch.tensor([0.25, 1.0]))
    assert noisy[0].unique().tolist() == [4.0]  # 0.75 * 2 + 0.25 * 10
    assert noisy[1].unique().tolist() == [10.0]


def test_velocity_points_from_data_to_noise():
    velocity = flow.target_velocity(torch.tensor([[2.0, 3.0]]), torch.tensor([[10.0, -1.0]]))
    assert velocity.tolist() == [[8.0, -4.0]]


def test_each_image_gets_its_own_sigma(batch):
    clean, noise, sigma = batch
    noisy = flow.add_noise(clean, noise, sigma)
    estimate = flow.denoise(clean, noise, sigma)
    for index, level in enumerate(sigma.tolist()):
        torch.testing.assert_close(noisy[index], (1 - level) * clean[index] + level * noise[index])
        torch.testing.assert_close(estimate[index], clean[index] - level * noise[index])


def test_denoise_inverts_add_noise(batch):
    clean, noise, sigma = batch
    noisy = flow.add_noise(clean, noise, sigma)
    recovered = flow.denoise(noisy, flow.target_velocity(clean, noise), sigma)
    torch.testing.assert_close(recovered, clean)


def test_velocity_is_the_derivative_of_noisy_by_sigma(batch):
    clean, noise, sigma = (tensor.double() for tensor in batch)
    step = 1e-3
    change = flow.add_noise(clean, noise, sigma + step) - flow.add_noise(clean, noise, sigma)
    torch.testing.assert_close(change / step, flow.target_velocity(clean, noise))


def test_bfloat16_latents_are_mixed_in_float32_and_stay_bfloat16():
    # 0.999 is 1 in bfloat16, where both results would be 0.
    sigma = torch.tensor([0.999])
    large, zero = torch.full((1, 2), 1024.0).bfloat16(), torch.zeros(1, 2).bfloat16()
    noisy = flow.add_noise(large, zero, sigma)
    clean = flow.denoise(large, large, sigma)
    assert noisy.dtype == clean.dtype == torch.bfloat16
    assert noisy[0, 0].item() == pytest.approx(1.024, rel=0.004)
    assert clean[0, 0].item() == pytest.approx(1.024, rel=0.004)


def test_bfloat16_sigma_does_not_pull_the_mixing_down_to_bfloat16(batch):
    clean, noise, sigma = (tensor.bfloat16() for tensor in batch)
    noisy, estimate = flow.add_noise(clean, noise, sigma), flow.denoise(clean, noise, sigma)
    level = sigma.float().reshape(-1, 1, 1, 1)
    mixed = (1 - level) * clean.float() + level * noise.float()
    assert torch.equal(noisy, mixed.bfloat16())
    assert torch.equal(estimate, (clean.float() - level * noise.float()).bfloat16())


def test_float64_latents_keep_their_precision():
    clean, noise = torch.ones(1, 2).double(), torch.zeros(1, 2).double()
    sigma = torch.tensor([1e-12]).double()
    assert flow.add_noise(clean, noise, sigma)[0, 0].item() == 1 - 1e-12


def test_velocity_and_estimate_take_the_dtype_of_the_first_argument():
    clean, noise = torch.zeros(2, 3).bfloat16(), torch.ones(2, 3)
    assert flow.target_velocity(clean, noise).dtype == torch.bfloat16
    assert flow.denoise(clean, noise, torch.zeros(2)).dtype == torch.bfloat16


@pytest.mark.parametrize("sigma", [[0.5, 1.01], [-0.01, 0.5], [500.0, 0.5], [math.nan, 0.5]])
def test_sigma_outside_the_range_is_an_error(sigma):
    with pytest.raises(ValueError, match=r"sigma must lie in \[0, 1\], got"):
        flow.add_noise(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor(sigma))


@pytest.mark.parametrize("sigma_shape", [(), (5,), (2, 1), (2, 1, 1, 1)])
def test_sigma_needs_one_level_per_image(sigma_shape):
    latents = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"one level for each of the 2 images"):
        flow.add_noise(latents, latents, torch.zeros(sigma_shape))


def test_latents_of_different_shapes_are_not_broadcast():
    latents, other = torch.zeros(2, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match="noise has shape"):
        flow.add_noise(latents, other, torch.zeros(2))
    with pytest.raises(ValueError, match="noise has shape"):
        flow.target_velocity(latents, other)
    with pytest.raises(ValueError, match="velocity has shape"):
        flow.denoise(latents, other, torch.zeros(2))


def test_shift_three_moves_one_half_to_three_quarters_and_keeps_the_ends():
    sigma = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(flow.shift_sigma(sigma, 3.0), torch.tensor([0.0, 0.5, 0.75, 1.0]))


def test_shift_adds_its_logarithm_to_the_logit():
    sigma = torch.linspace(0.01, 0.99, 31, dtype=torch.float64)
    shifted = flow.shift_sigma(sigma, 2.5)
    torch.testing.assert_close(shifted.logit(), sigma.logit() + math.log(2.5))


def test_shifts_compose_by_multiplication_and_one_does_nothing():
    sigma = torch.linspace(0, 1, 31, dtype=torch.float64)
    twice = flow.shift_sigma(flow.shift_sigma(sigma, 2.0), 0.75)
    torch.testing.assert_close(twice, flow.shift_sigma(sigma, 1.5))
    assert torch.equal(flow.shift_sigma(sigma, 1.0), sigma)


def test_resolution_shift_is_the_ratio_of_side_lengths():
    assert flow.resolution_shift(1024 * 1024, 256 * 256) == 4.0
    assert flow.resolution_shift(64, 256) == 0.5  # tokens of a smaller image


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (-4, 4), (math.inf, 4)])
def test_resolution_shift_needs_positive_sizes(sizes):
    with pytest.raises(ValueError, match="positive counts"):
        flow.resolution_shift(*sizes)


def test_quantiles_have_the_values_of_the_papers_formulas():
    u = torch.tensor([0.25, 1 / 3, 0.5, 0.8413447])  # the last is one standard deviation up

    def quantiles(density, **settings):
        return flow.sigma_from_uniform(density, u, **settings).tolist()

    assert quantiles("uniform") == pytest.approx(u.tolist())
    normal = quantiles("logit_normal", mean=-0.5, std=2.0)
    assert normal[2:] == pytest.approx([0.3775407, 0.8175745])  # sigmoid(-0.5), sigmoid(1.5)
    # 1 - v - s (cos^2(pi v / 2) - 1 + v) at v = 1 - u, s = 1
    mode = quantiles("mode", scale=1.0)
    assert mode[:3] == pytest.approx([0.3535534, 0.4166667, 0.5])
    cosmap = quantiles("cosmap")
    assert cosmap[:3] == pytest.approx([0.2928932, 0.3660254, 0.5])  # 1 - 1 / (tan(pi u / 2) + 1)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_quantiles_follow_the_closed_form_density(density, shift):
    settings = {"mean": -0.7, "std": 0.8, "scale": 1.29, "shift": shift}
    sigma = flow.sigma_from_uniform(density, EVEN_U, **settings)
    edges = torch.linspace(0, 1, 21, dtype=torch.float64)
    drawn = torch.histc(sigma.double(), bins=20, min=0, max=1) / len(sigma)
    fine = torch.linspace(0, 1, 20 * 500 + 1, dtype=torch.float64)
    pdf = flow.sigma_density(density, fine, **settings)
    mass = torch.stack(
        [
            torch.trapezoid(pdf[(fine >= low) & (fine <= high)], dx=1 / 10_000)
            for low, high in zip(edges[:-1] - 1e-9, edges[1:] + 1e-9, strict=True)
        ]
    )
    assert pdf.dtype == torch.float64
    torch.testing.assert_close(drawn, mass, atol=3e-5, rtol=0)
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [-1.0, -0.4, 0.0, 1.0, 1.7])
def test_mode_density_is_the_derivative_of_its_inverse_map(scale):
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)

    def f(v):
        return 1 - v - scale * (torch.cos(math.pi / 2 * v) ** 2 - 1 + v)

    slope = (f(u + 1e-6) - f(u - 1e-6)) / 2e-6
    torch.testing.assert_close(
        flow.sigma_density("mode", f(u), scale=scale), 1 / slope.abs(), rtol=1e-5, atol=0
    )


def test_densities_have_their_known_values_in_the_middle():
    half = torch.tensor([0.5])
    values = [flow.sigma_density(density, half).item() for density in DENSITIES]
    # 4 / sqrt(2 pi); 1 / (1 + 1.29 (1 - pi / 2)); 4 / pi
    assert values == pytest.approx([1.0, 1.5957691, 3.7925790, 1.2732395], rel=1e-5)


def test_logit_normal_density_is_zero_at_both_ends():
    ends = torch.tensor([0.0, 1.0])
    assert flow.sigma_density("logit_normal", ends, shift=3.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("mean", "below_half"), [(-1.0, 0.8413), (1.0, 0.1587)])
def test_negative_mean_visits_data_more_often_and_positive_noise(mean, below_half):
    sigma = flow.sigma_from_uniform("logit_normal", EVEN_U, mean=mean)
    assert (sigma < 0.5).double().mean().item() == pytest.approx(below_half, abs=1e-4)
    data, noise = flow.sigma_density("logit_normal", torch.tensor([0.2, 0.8]), mean=mean).tolist()
    assert (data > noise) == (mean < 0)


def test_shifted_logit_normal_is_a_logit_normal_with_a_larger_mean():
    shifted = flow.sigma_from_uniform("logit_normal", EVEN_U, mean=-0.3, shift=3.0)
    moved = flow.sigma_from_uniform("logit_normal", EVEN_U, mean=-0.3 + math.log(3.0))
    torch.testing.assert_close(shifted, moved)


def test_positive_scale_prefers_the_middle_and_negative_the_ends():
    spread = [
        flow.sigma_from_uniform("mode", EVEN_U, scale=scale).std().item()
        for scale in (-1.0, 0.0, 1.29, 1.75)
    ]
    assert spread == pytest.approx([0.354, 0.289, 0.215, 0.194], abs=1e-3)


@pytest.mark.parametrize("density", DENSITIES)
def test_quantiles_increase_within_the_range_up_to_both_ends(density):
    u = torch.linspace(0, 1, 1001)
    sigma = flow.sigma_from_uniform(density, u)
    assert (sigma.diff() > 0).all()
    assert sigma.dtype == torch.float32
    assert sigma[[0, -1]].tolist() == pytest.approx([0.0, 1.0], abs=1e-7)
    assert sigma.max() <= 1


@pytest.mark.parametrize("density", DENSITIES)
def test_draws_repeat_with_the_generator_and_spread_as_the_quantiles(density):
    def draw(seed):
        return flow.sample_sigma(density, (400, 50), torch.Generator().manual_seed(seed), shift=2.0)

    drawn = draw(5)
    assert drawn.shape == (400, 50)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, draw(5))
    assert not torch.equal(drawn, draw(6))
    exact = flow.sigma_from_uniform(density, EVEN_U, shift=2.0)
    assert drawn.mean().item() == pytest.approx(exact.mean().item(), abs=0.01)
    assert drawn.std().item() == pytest.approx(exact.std().item(), abs=0.01)


def test_settings_reach_the_draw():
    def draw(density, **settings):
        generator = torch.Generator().manual_seed(5)
        return flow.sample_sigma(density, (1000,), generator, **settings)

    u = torch.rand(1000, generator=torch.Generator().manual_seed(5))
    for density, settings in (
        ("logit_normal", {"mean": -1.0, "std": 0.5}),
        ("mode", {"scale": -0.5}),
        ("cosmap", {"shift": 3.0}),
    ):
        expected = flow.sigma_from_uniform(density, u, **settings)
        assert torch.equal(draw(density, **settings), expected)
        assert not torch.equal(draw(density), expected)


@pytest.mark.parametrize("density", ["logit-normal", "", "sigma_sqrt", None])
def test_unknown_density_is_an_error_that_lists_the_known(density):
    choices = r"choose one of \('uniform', 'logit_normal', 'mode', 'cosmap'\)"
    with pytest.raises(ConfigError, match=choices):
        flow.sample_sigma(density, (2,), torch.Generator())
    with pytest.raises(ConfigError, match=choices):
        flow.sigma_density(density, torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": 0.0}, "std is 0.0"),
        ({"std": math.nan}, "std is nan"),
        ({"scale": 1.76}, "scale is 1.76; choose a number from -1.0 to 1.7519"),
        ({"scale": -1.01}, "scale is -1.01"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"shift": -3.0}, "shift is -3.0"),
    ],
)
def test_settings_without_a_density_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        flow.sample_sigma("mode", (2,), torch.Generator(), **settings)
    with pytest.raises(ConfigError, match=message):
        flow.sigma_density("mode", torch.tensor([0.5]), **settings)


def test_uniform_numbers_outside_the_range_are_an_error():
    with pytest.raises(ValueError, match=r"u must lie in \[0, 1\], got \[1.5"):
        flow.sigma_from_uniform("uniform", torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match=r"sigma must lie in \[0, 1\], got \[500.0"):
        flow.sigma_density("uniform", torch.tensor([500.0]))
