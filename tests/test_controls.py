"""One function makes the control of training and of sampling."""

import numpy as np
import pytest
import torch

from ecomap.autoencoder import load_vae
from ecomap.controls import ControlSpec, cell_means, edge_cells, encode_control, prepare_control
from ecomap.errors import ConfigError, RequestError
from ecomap.latents import encode, to_pixels
from ecomap.transformer_config import ControlNetConfig
from tests.fakes import made_image, write_vae

SPEC = ControlSpec(channels=("canny", "months_gap", "reference_valid"), max_gap_months=4)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return load_vae(write_vae(tmp_path_factory.mktemp("vae")))


def test_a_spec_says_what_a_config_says():
    config = ControlNetConfig(
        image="canny", channels=("months_gap",), max_gap_months=3, wrap_year=True,
        max_reference_cloud_frac=0.2, num_layers=2,
    )  # fmt: skip
    spec = ControlSpec.from_config(config)
    assert spec.model_dump() == {
        "image": "canny", "channels": ("months_gap",), "max_gap_months": 3, "wrap_year": True,
        "max_reference_cloud_frac": 0.2, "min_gap_months": 1, "edit": False,
    }  # fmt: skip
    assert spec.num_extra == 1


def test_channels_come_in_the_order_of_the_spec():
    latents = torch.randn(2, 16, 2, 3)
    valid, canny = 0.5 + torch.rand(2, 1, 2, 3) / 2, torch.rand(2, 1, 2, 3)
    control = prepare_control(
        SPEC, latents, valid=valid, gap_months=torch.tensor([1, 4]), maps={"canny": canny}
    )
    assert control.shape == (2, 19, 2, 3)
    assert control.dtype == torch.float32
    assert torch.equal(control[:, :16], latents)
    assert torch.equal(control[:, 16:17], canny)
    assert control[:, 17].unique(dim=0).flatten(1).unique(dim=1).tolist() == [[0.25], [1.0]]
    assert torch.equal(control[:, 18:], valid)
    plain = prepare_control(ControlSpec(), latents, valid=valid, maps={"canny": canny})
    assert torch.equal(plain, latents)


def test_cells_that_are_mostly_missing_are_not_shown():
    latents, valid = torch.ones(1, 16, 1, 3), torch.tensor([0.0, 0.49, 0.5]).reshape(1, 1, 1, 3)
    spec = ControlSpec(channels=("reference_valid",))
    control = prepare_control(spec, latents, valid=valid)
    assert control[0, :16, 0].unique(dim=0).tolist() == [[0.0, 0.0, 1.0]]
    assert torch.equal(control[:, 16:], valid)


def test_months_may_be_told_by_cell():
    spec = ControlSpec(channels=("months_gap", "reference_sin", "reference_cos"), max_gap_months=4)
    gap = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2)
    month = torch.tensor([[3.0, 6.0]]).reshape(1, 1, 1, 2)
    control = prepare_control(spec, torch.zeros(1, 16, 1, 2), gap_months=gap, reference_month=month)
    expected = torch.tensor([[[0.25, 0.5]], [[1.0, 0.0]], [[0.0, -1.0]]])
    assert torch.allclose(control[0, 16:], expected, atol=1e-6)


def test_an_empty_control_is_zero_even_where_values_are_not_finite():
    latents = torch.full((2, 16, 2, 2), float("nan"))
    latents[0] = 1.0
    control = prepare_control(
        ControlSpec(channels=("months_gap",)), latents, gap_months=torch.tensor([2, 2]),
        has_control=torch.tensor([True, False]),
    )  # fmt: skip
    assert not control[1].any()
    assert (control[0] > 0).all()


def test_a_missing_channel_is_named():
    latents = torch.zeros(1, 16, 2, 2)
    with pytest.raises(RequestError, match="canny is missing; expected shape"):
        prepare_control(SPEC, latents)
    with pytest.raises(RequestError, match=r"reference_valid has shape \(1, 1, 4, 4\)"):
        prepare_control(
            ControlSpec(channels=("reference_valid",)), latents, valid=torch.ones(1, 1, 4, 4)
        )


def test_an_image_gives_its_latents_gap_validity_and_edges(vae):
    frames = np.stack([made_image(1, 16, 24), made_image(2, 16, 24)])
    frames[1, :8, :4] = 0
    control = encode_control(SPEC, vae, frames, gap_months=2)
    assert control.shape == (2, 19, 2, 3)
    assert torch.equal(control[:, :16], encode(vae, to_pixels(torch.from_numpy(frames))))
    assert torch.equal(control[:, 16:17], edge_cells("canny", frames))
    assert (control[:, 17] == 0.5).all()
    assert (control[0, 18] == 1).all()
    assert control[1, 18].tolist() == [[0.5, 1.0, 1.0], [1.0, 1.0, 1.0]]
    again = encode_control(SPEC, vae, frames, gap_months=2)
    assert torch.equal(control, again)  # the mode of the posterior: nothing is drawn


def test_an_edge_image_takes_the_place_of_the_reference(vae):
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    frame[:, :, 20:] = 220
    spec = ControlSpec(image="canny")
    from ecomap.detectors import open_detector

    edges = open_detector("canny")[1](frame[0])
    assert edges.any()
    expected = encode(vae, to_pixels(torch.from_numpy(edges[None])))
    assert torch.equal(encode_control(spec, vae, frame), expected)


def test_what_the_controlnet_must_know_is_asked_for(vae):
    with pytest.raises(RequestError, match="how many months lie between"):
        encode_control(SPEC, vae, made_image(1, 16, 16)[None])
    with pytest.raises(ConfigError, match="'hed' needs its weights"):
        encode_control(ControlSpec(image="hed"), vae, made_image(1, 16, 16)[None])


def test_edges_are_shares_of_cells():
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    frame[:, :, 20:] = 220
    cells = edge_cells("canny", frame)
    assert cells.shape == (1, 1, 8, 8)
    assert 0 < cells.max() <= 1
    assert set(torch.nonzero(cells)[:, 3].tolist()) <= {2}  # columns 16 to 23
    assert cell_means(np.ones((2, 16, 8)))[1].tolist() == [[[1.0], [1.0]]]
