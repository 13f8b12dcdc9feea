"""The edit form: what stays of a reference and what is added to it."""

import pytest
import torch

from ecomap.edit import FIRST_SHARE_LOGIT, HELD_FROM, EditHead, edit_velocity, hold_unchanged
from ecomap.flow import add_noise, denoise


def make_head(**changes) -> EditHead:
    torch.manual_seed(0)
    return EditHead(**({"width": 12, "latent_channels": 3, "valid_channel": 3} | changes))


def filled(head: EditHead) -> EditHead:
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


def test_an_untrained_head_keeps_nearly_all_of_a_valid_reference_and_adds_nothing():
    control = torch.ones(2, 4, 4, 6)
    control[1, 3, 2:] = 0.0
    share, correction = make_head()(torch.randn(2, 6, 12), torch.randn(2, 12), control)
    assert share.shape == (2, 1, 4, 6)
    assert share[0].unique().tolist() == pytest.approx([torch.sigmoid(torch.tensor(3.0)).item()])
    assert FIRST_SHARE_LOGIT == 3.0
    assert not share[1, :, 2:].any()
    assert correction.shape == (2, 3, 4, 6)
    assert not correction.any()


def test_an_empty_control_is_left_to_the_base():
    control = torch.randn(2, 4, 4, 4)
    control[1] = 0.0
    share, correction = filled(make_head())(torch.randn(2, 4, 12), torch.randn(2, 12), control)
    assert correction[0].any()
    assert not correction[1].any()
    assert not share[1].any()


def test_tokens_come_back_to_their_own_cells():
    """A token's cells, row by row, as in the transformer's own outlet."""
    head = filled(make_head())
    control = torch.ones(1, 4, 4, 6)
    tokens, embedding = torch.randn(1, 6, 12), torch.randn(1, 12)
    before = head(tokens, embedding, control)[1]
    changed = tokens.clone()
    changed[0, 4] += torch.randn(12)  # second row of tokens, second column
    moved = (head(changed, embedding, control)[1] != before).any(1)[0]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 2:4] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize(("level", "hold"), [(1.0, 1.0), (0.5, 1.0), (0.25, 1.0), (0.05, 0.2)])
def test_the_clean_estimate_is_what_the_formula_says(level, hold):
    torch.manual_seed(1)
    velocity, noisy, reference, correction = torch.randn(4, 2, 3, 4, 4)
    sigma, share = torch.full((2,), level), torch.rand(2, 1, 4, 4)
    assert hold == pytest.approx(min(1, level / HELD_FROM))
    edited = edit_velocity(velocity, noisy, sigma, reference, (share, correction))
    clean = denoise(noisy, velocity, sigma)
    expected = clean + hold * share * (reference - clean) + level * correction
    assert torch.allclose(denoise(noisy, edited, sigma), expected, atol=1e-5)


def test_a_whole_share_gives_back_the_reference_at_every_level_that_holds():
    velocity, noisy, reference = torch.randn(3, 2, 3, 4, 4)
    whole, nothing = torch.ones(2, 1, 4, 4), torch.zeros(1)
    for level in (1.0, 0.6, 0.3):
        sigma = torch.full((2,), level)
        edited = edit_velocity(velocity, noisy, sigma, reference, (whole, nothing))
        assert torch.allclose(denoise(noisy, edited, sigma), reference, atol=1e-5)


def test_towards_data_the_base_decides_and_nothing_grows_without_bound():
    torch.manual_seed(1)
    reference, truth, noise = torch.randn(3, 1, 3, 4, 4)
    sigma = torch.tensor([1e-4])
    noisy = add_noise(truth, noise, sigma)
    share = torch.ones(1, 1, 4, 4)
    edited = edit_velocity(noise - truth, noisy, sigma, reference, (share, torch.zeros(1)))
    assert torch.allclose(edited, (noise - truth) + (truth - reference) / HELD_FROM, atol=2e-2)
    assert torch.allclose(denoise(noisy, edited, sigma), truth, atol=1e-2)


def test_a_scale_of_zero_is_the_base_alone():
    velocity, noisy, reference, correction = torch.randn(4, 2, 3, 4, 4)
    share = torch.rand(2, 1, 4, 4)
    edited = edit_velocity(
        velocity, noisy, torch.ones(2), reference, (share, correction), scale=0.0
    )
    assert torch.equal(edited, velocity)


def test_what_is_held_unchanged_is_the_reference_bit_for_bit():
    clean, reference = torch.randn(2, 2, 3, 4, 4)
    change = torch.zeros(2, 1, 4, 4)
    change[1] = 0.25
    held = hold_unchanged(clean, reference, change)
    assert torch.equal(held[0], reference[0])
    assert torch.allclose(held[1], 0.75 * reference[1] + 0.25 * clean[1])
