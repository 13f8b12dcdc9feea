"""Samplers against exact solutions and diffusers' schedulers; guidance by hand."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from ecomap import flow, solver
from ecomap.errors import RequestError

NAMES = ["euler", "heun", "dpmpp_2m"]

# Data of independent pixels N(MU, S^2). Along the line from data to noise everything stays
# Gaussian, so the optimal velocity and the path of each noise are known exactly.
MU = torch.tensor([-0.8, 0.0, 0.5], dtype=torch.float64).reshape(3, 1, 1)
S = torch.tensor([0.3, 1.5, 0.8], dtype=torch.float64).reshape(3, 1, 1)


def gaussian_variance(sigma):
    return (1 - sigma) ** 2 * S**2 + sigma**2


def gaussian_velocity(latents, sigma):
    """Mean of ``noise - clean`` given ``latents``."""
    surprise = (latents - (1 - sigma) * MU) / gaussian_variance(sigma)
    clean = MU + (1 - sigma) * S**2 * surprise
    return sigma * surprise - clean


def gaussian_solution(noise, sigma):
    """Where the flow carries noise of sigma 1: the same quantile of the marginal at ``sigma``."""
    return (1 - sigma) * MU + gaussian_variance(sigma) ** 0.5 * noise


def nonlinear_velocity(latents, sigma):
    """Coupled, curved and asymmetric in height and width; any dtype."""
    return torch.sin(2 * latents) + sigma * latents.flip(-1) - 0.3 * latents.roll(1, -2)


@pytest.fixture
def noise():
    return torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(11))


def even_sigmas(steps, end=0.0):
    return torch.linspace(1, end, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0, 4.7])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 28])
def test_sigmas_equal_those_of_the_diffusers_scheduler(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    sigmas = solver.make_sigmas(steps, shift)
    assert torch.equal(sigmas, scheduler.sigmas)
    assert sigmas.dtype == torch.float32


@pytest.mark.parametrize("shift", [0.1, 0.5, 1.18, 1.83])
def test_sigmas_start_at_one_where_the_scheduler_rounds_beside_it(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(14)
    sigmas = solver.make_sigmas(14, shift)
    assert sigmas[0] == 1
    torch.testing.assert_close(sigmas, scheduler.sigmas, atol=3e-6, rtol=0)


@pytest.mark.parametrize("shift_end_twice", [True, False])
def test_sigmas_descend_from_one_to_zero(shift_end_twice):
    sigmas = solver.make_sigmas(7, 2.0, shift_end_twice=shift_end_twice)
    assert sigmas.shape == (8,)
    assert sigmas[[0, -1]].tolist() == [1.0, 0.0]
    assert (sigmas.diff() < 0).all()


def test_last_sigma_is_shifted_twice_unless_told_otherwise():
    once = flow.shift_sigma(torch.tensor(0.001), 3.0)
    twice = flow.shift_sigma(once, 3.0)
    assert solver.make_sigmas(28, 3.0)[-2].item() == pytest.approx(twice.item(), rel=1e-6)
    assert twice.item() == pytest.approx(0.0089, abs=5e-5)
    single = solver.make_sigmas(28, 3.0, shift_end_twice=False)
    assert single[-2].item() == pytest.approx(once.item(), rel=1e-6)
    assert once.item() == pytest.approx(0.0030, abs=5e-5)


def test_middle_sigmas_are_shifted_once():
    plain = solver.make_sigmas(3, shift_end_twice=False)
    shifted = solver.make_sigmas(3, 3.0, shift_end_twice=False)
    assert plain.tolist() == pytest.approx([1, 0.5005, 0.001, 0])
    torch.testing.assert_close(shifted, flow.shift_sigma(plain, 3.0))


@pytest.mark.parametrize(
    ("steps", "shift", "message"),
    [
        (0, 1.0, "steps is 0; choose at least 1"),
        (-3, 1.0, "steps is -3"),
        (4, 0.0, "shift is 0.0"),
        (4, math.nan, "shift is nan"),
    ],
)
def test_sigmas_of_an_impossible_run_are_an_error(steps, shift, message):
    with pytest.raises(RequestError, match=message):
        solver.make_sigmas(steps, shift)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_solver_reaches_the_exact_solution_for_gaussian_data(name, end, noise):
    noise = noise.double()
    sampled = solver.SOLVERS[name](gaussian_velocity, noise, even_sigmas(400, end))
    tolerance = 2e-2 if name == "euler" else 2e-4
    torch.testing.assert_close(sampled, gaussian_solution(noise, end), atol=tolerance, rtol=0)


def orders_of_convergence(name, noise, begin, end):
    """Binary logarithm of what each halving of the steps divides the error by."""
    noise = noise.double()
    start, exact = gaussian_solution(noise, begin), gaussian_solution(noise, end)
    errors = []
    for steps in (64, 128, 256, 512):
        sigmas = torch.linspace(begin, end, steps + 1, dtype=torch.float64)
        sampled = solver.SOLVERS[name](gaussian_velocity, start, sigmas)
        errors.append((sampled - exact).norm().item())
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name, order, noise):
    assert orders_of_convergence(name, noise, 0.95, 0.05) == pytest.approx([order] * 3, abs=0.05)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
def test_order_holds_from_pure_noise_to_data(name, order, noise):
    assert orders_of_convergence(name, noise, 1.0, 0.0) == pytest.approx([order] * 3, abs=0.05)


def test_dpmpp_2m_is_a_logarithm_short_of_second_order_from_pure_noise_to_data(noise):
    orders = orders_of_convergence("dpmpp_2m", noise, 1.0, 0.0)
    # An error of h^2 log(1 / h) has orders 1.78, 1.81, 1.83 here, and 2 in the limit.
    assert orders == pytest.approx([1.78, 1.81, 1.83], abs=0.15)
    assert orders == sorted(orders)


@pytest.mark.parametrize("name", NAMES)
def test_one_known_image_is_reached_in_any_number_of_steps(name, noise):
    image = torch.linspace(-1, 1, noise.numel()).reshape(noise.shape)

    def velocity(latents, sigma):  # of data that is always this image
        return (latents - image) / sigma

    for steps in (1, 2, 5):
        sampled = solver.SOLVERS[name](velocity, noise, solver.make_sigmas(steps, 3.0))
        torch.testing.assert_close(sampled, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_sampling_undoes_the_noise_of_flow(name, noise):
    clean = noise.flip(0) * 0.7 + 0.1

    def velocity(latents, sigma):
        return flow.target_velocity(clean, noise)

    start = flow.add_noise(clean, noise, torch.full((2,), 0.6))
    sigmas = torch.tensor([0.6, 0.4, 0.1, 0.0])
    torch.testing.assert_close(solver.SOLVERS[name](velocity, start, sigmas), clean)


# diffusers 0.42 converts a tensor by np.array, which numpy 2 will stop supporting in that form.
ignore_numpy_conversion = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def step_through(scheduler, noise):
    scheduler.set_begin_index(0)
    latents, sigmas = noise, scheduler.sigmas
    for index, timestep in enumerate(scheduler.timesteps):
        velocity = nonlinear_velocity(latents, sigmas[index].item())
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (6, 1.0), (20, 3.0)])
def test_euler_equals_the_diffusers_scheduler(steps, shift, noise):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    expected = step_through(scheduler, noise)
    sampled = solver.sample_euler(nonlinear_velocity, noise, solver.make_sigmas(steps, shift))
    torch.testing.assert_close(sampled, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("steps", "shift"), [(2, 1.0), (6, 1.0), (20, 3.0)])
def test_heun_equals_the_diffusers_scheduler(steps, shift, noise):
    scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    latents = noise
    for timestep in scheduler.timesteps:  # two per step, one for the last
        velocity = nonlinear_velocity(latents, timestep.item() / 1000)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    sampled = solver.sample_heun(nonlinear_velocity, noise, solver.make_sigmas(steps, shift))
    # The scheduler goes from velocity to clean estimate and back through a division by sigma, down
    # to 0.001: it loses three digits of float32.
    torch.testing.assert_close(sampled, latents, atol=2e-4, rtol=0)


def dpm_scheduler(steps, shift):
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=shift,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
    )
    scheduler.set_timesteps(steps)
    return scheduler


@ignore_numpy_conversion
@pytest.mark.parametrize(("steps", "shift"), [(2, 1.0), (6, 1.0), (20, 3.0)])
def test_dpmpp_2m_equals_the_diffusers_scheduler_on_its_own_sigmas(steps, shift, noise):
    scheduler = dpm_scheduler(steps, shift)
    assert scheduler.sigmas[0] < 1  # its table starts at 0.999, shifted
    expected = step_through(scheduler, noise)
    sampled = solver.sample_dpmpp_2m(nonlinear_velocity, noise, scheduler.sigmas)
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=1e-5)


@ignore_numpy_conversion
@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (2, 1.0), (6, 1.0), (20, 3.0)])
def test_dpmpp_2m_equals_the_diffusers_scheduler_from_sigma_one(steps, shift, noise):
    scheduler = dpm_scheduler(steps, shift)
    scheduler.sigmas = solver.make_sigmas(steps, shift)  # it has no public way to start at 1
    expected = step_through(scheduler, noise)
    sampled = solver.sample_dpmpp_2m(nonlinear_velocity, noise, solver.make_sigmas(steps, shift))
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 4), ("heun", 7), ("dpmpp_2m", 4)])
def test_solvers_evaluate_as_often_as_they_say_and_never_at_zero(name, evaluations, noise):
    seen = []

    def velocity(latents, sigma):
        seen.append(sigma)
        return nonlinear_velocity(latents, sigma)

    solver.SOLVERS[name](velocity, noise, solver.make_sigmas(4))
    assert len(seen) == evaluations
    assert all(type(sigma) is float and 0 < sigma <= 1 for sigma in seen)


@pytest.mark.parametrize("name", NAMES)
def test_callback_gets_each_step_its_sigma_and_the_clean_estimate(name, noise):
    image = torch.linspace(-1, 1, noise.numel()).reshape(noise.shape)
    calls = []
    sigmas = solver.make_sigmas(5, 2.0)

    def velocity(latents, sigma):  # of data that is always this image: every estimate is exact
        return (latents - image) / sigma

    plain = solver.SOLVERS[name](velocity, noise, sigmas)
    watched = solver.SOLVERS[name](
        velocity, noise, sigmas, callback=lambda *values: calls.append(values)
    )
    assert torch.equal(plain, watched)
    assert [index for index, _, _ in calls] == [0, 1, 2, 3, 4]
    assert [sigma for _, sigma, _ in calls] == sigmas[:-1].tolist()
    for _, _, estimate in calls:
        torch.testing.assert_close(estimate, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_noise_is_integrated_in_float32(name, noise):
    seen = []

    def velocity(latents, sigma):
        seen.append(latents.dtype)
        return nonlinear_velocity(latents, sigma).bfloat16()

    def rounded(latents, sigma):
        return nonlinear_velocity(latents, sigma).bfloat16().float()

    sigmas = solver.make_sigmas(50)
    sampled = solver.SOLVERS[name](velocity, noise.bfloat16(), sigmas)
    assert sampled.dtype == torch.bfloat16
    assert set(seen) == {torch.float32}
    expected = solver.SOLVERS[name](rounded, noise.bfloat16().float(), sigmas)
    assert torch.equal(sampled, expected.bfloat16())


@pytest.mark.parametrize("name", NAMES)
def test_solvers_leave_the_noise_as_it_was(name, noise):
    before = noise.clone()
    solver.SOLVERS[name](nonlinear_velocity, noise, solver.make_sigmas(3))
    assert torch.equal(noise, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sigmas",
    [
        [0.0, 0.5, 1.0],
        [1.0, 0.5, 0.5, 0.0],
        [1000.0, 500.0, 0.0],
        [1.0, -0.1],
        [1.0, math.nan, 0.0],
        [1.0],
        [[1.0, 0.0]],
        0.5,
    ],
)
def test_sigmas_that_do_not_descend_within_the_range_are_an_error(name, sigmas, noise):
    with pytest.raises(ValueError, match="expected at least two levels in"):
        solver.SOLVERS[name](nonlinear_velocity, noise, torch.tensor(sigmas))


def test_solvers_are_known_by_their_names():
    assert list(solver.SOLVERS) == NAMES
    assert solver.SOLVERS["heun"] is solver.sample_heun


class Pair:
    """Conditional velocity 3, unconditional 1; remembers what was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, latents, sigma, *, need_uncond):
        self.asked.append((sigma, need_uncond))
        uncond = torch.full_like(latents, 1.0) if need_uncond else None
        return torch.full_like(latents, 3.0), uncond


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]
)
def test_guidance_goes_from_unconditional_past_conditional(scale, expected):
    velocity = solver.guide(Pair(), scale)(torch.zeros(1, 2), 0.5)
    assert velocity.unique().tolist() == [expected]


def test_guidance_is_made_inside_the_interval_and_its_ends_alone():
    pair = Pair()
    predict = solver.guide(pair, 2.0, interval=(0.25, 0.75))
    levels = [1.0, 0.76, 0.75, 0.5, 0.25, 0.24]
    velocities = [predict(torch.zeros(1, 2), sigma)[0, 0].item() for sigma in levels]
    assert velocities == [3.0, 3.0, 5.0, 5.0, 5.0, 3.0]
    assert pair.asked == list(zip(levels, [False, False, True, True, True, False], strict=True))


def test_scale_one_never_asks_for_the_unconditional_velocity(noise):
    pair = Pair()
    solver.sample_heun(solver.guide(pair, 1.0), noise, solver.make_sigmas(4))
    assert len(pair.asked) == 7
    assert not any(need_uncond for _, need_uncond in pair.asked)


def test_guidance_of_two_gaussians_samples_in_one_batched_call(noise):
    calls = []

    def pair(latents, sigma, *, need_uncond):
        both = torch.cat([latents, latents]) if need_uncond else latents
        calls.append(len(both))
        velocity = gaussian_velocity(both, sigma)
        if not need_uncond:
            return velocity, None
        cond, uncond = velocity.chunk(2)
        return cond, uncond

    # Condition and no condition agree here, so any scale must leave the samples alone.
    sigmas = even_sigmas(10)
    sampled = solver.sample_euler(solver.guide(pair, 3.0, (0.0, 0.75)), noise.double(), sigmas)
    plain = solver.sample_euler(gaussian_velocity, noise.double(), sigmas)
    torch.testing.assert_close(sampled, plain)
    assert calls == [2, 2, 2, 4, 4, 4, 4, 4, 4, 4]  # sigma 1, 0.9, 0.8, then 0.7 ... 0.1


def test_unconditional_velocity_that_was_withheld_is_an_error():
    predict = solver.guide(lambda latents, sigma, *, need_uncond: (latents, None), 2.0)
    with pytest.raises(ValueError, match=r"no unconditional velocity at sigma 0\.5"):
        predict(torch.zeros(1, 2), 0.5)


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 1.0), (0.0, 1000.0), (math.nan, 1.0)])
def test_impossible_guidance_interval_is_an_error(interval):
    with pytest.raises(RequestError, match="Guidance interval is"):
        solver.guide(Pair(), 2.0, interval)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_guidance_scale_must_be_finite(scale):
    with pytest.raises(RequestError, match="choose a finite number"):
        solver.guide(Pair(), scale)
