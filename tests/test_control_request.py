"""A ControlNet in a request: files become a control, the control acts, and the result says so."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ecomap import learner
from ecomap.bundle_paths import CONTROLNET_FOLDER
from ecomap.card import DOORS, BundleCard
from ecomap.control_request import (
    ControlRequest,
    fitting_command,
    open_control_request,
    use_controlnet,
)
from ecomap.controlnet import build_controlnet
from ecomap.controlnet_files import CONTROL_FILE, save_controlnet
from ecomap.controls import ControlSpec, encode_control
from ecomap.errors import BundleError, RequestError
from ecomap.generate import generate
from ecomap.model import load_bundle
from ecomap.outputs import read_provenance
from ecomap.sample import generate_images
from tests.fakes import TINY_SIZE_PX, made_image, make_tile, write_random_bundle
from tests.made_evolver import write_evolver

SPEC = ControlSpec(channels=("months_gap",), max_gap_months=6)
CARD = BundleCard(
    name="made", image_size_px=TINY_SIZE_PX, doors=DOORS, grid="geographic",
    ground_sampling_distance_m=7413.0, attribution=("somebody",),
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = write_random_bundle(tmp_path_factory.mktemp("bundle"), CARD)
    return load_bundle(folder, device="cpu")


@pytest.fixture(scope="module")
def net(bundle, tmp_path_factory):
    """Folder of a ControlNet whose every weight matters."""
    torch.manual_seed(3)
    controlnet = build_controlnet(bundle.transformer, extra_channels=1)
    for module in (controlnet.controlnet_blocks, controlnet.pos_embed_input):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("nets") / "net"
    card = {"name": "net", "attribution": ["someone else", "somebody"]}
    save_controlnet(controlnet, SPEC, card, folder, base=bundle.transformer)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "june.png"
    Image.fromarray(made_image(4, TINY_SIZE_PX, TINY_SIZE_PX)).save(path)
    return path


def control_of(loaded, *, gap=2, seed=4):
    frame = made_image(seed, TINY_SIZE_PX, TINY_SIZE_PX)
    return encode_control(loaded.control, loaded.vae, frame[None], gap_months=gap)


def make(loaded, **changes):
    settings = {"seeds": [1], "steps": 2, "records": [make_tile()]} | changes
    records = settings.pop("records")
    return generate_images(loaded, records, **settings).astype(int)


def test_the_control_acts_by_its_scale_and_its_image(bundle, net):
    loaded = use_controlnet(bundle, net)
    plain = make(bundle)
    control = control_of(loaded)
    assert abs(make(loaded, control=control) - plain).max() > 5
    assert (make(loaded) == plain).all()
    assert (make(loaded, control=control, control_scale=0.0) == plain).all()
    weak, strong = (
        abs(make(loaded, control=control, control_scale=scale) - plain).mean()
        for scale in (0.1, 1.0)
    )
    assert 0 < weak < strong
    assert (make(loaded, control=control) != make(loaded, control=control_of(loaded, seed=5))).any()
    assert (make(loaded, control=control) != make(loaded, control=control_of(loaded, gap=5))).any()


def test_it_is_run_for_both_halves_of_guidance_and_only_where_it_acts(bundle, net, monkeypatch):
    loaded = use_controlnet(bundle, net)
    control = torch.cat([control_of(loaded, seed=seed) for seed in (4, 5)])
    calls = []
    run = learner.run_controlnet

    def watch(net, latents, shown, levels, condition, **rest):
        calls.append((shown, float(levels[0])))
        return run(net, latents, shown, levels, condition, **rest)

    monkeypatch.setattr(learner, "run_controlnet", watch)
    two = {"records": [make_tile(), make_tile()], "seeds": [1, 2], "steps": 4, "guidance": 2.0}
    make(loaded, control=control, **two)
    assert len(calls) == 4
    for shown, _ in calls:
        assert torch.equal(shown, torch.cat([control, control]))
    calls.clear()
    make(loaded, control=control, control_interval=(0.4, 1.0), **two)
    assert 0 < len(calls) < 4
    assert all(level >= 0.4 for _, level in calls)
    calls.clear()
    make(loaded, control=control, control_scale=0.0, **two)
    assert not calls


def test_images_do_not_depend_on_the_batch(bundle, net):
    loaded = use_controlnet(bundle, net)
    control = torch.cat([control_of(loaded, seed=seed) for seed in (4, 5, 6)])
    records = [make_tile(temperature_c=float(t)) for t in (0, 10, 20)]
    whole = make(loaded, records=records, seeds=[1, 2, 3], control=control)
    parts = make(loaded, records=records, seeds=[1, 2, 3], control=control, batch_size=2)
    assert abs(whole - parts).max() <= 2
    alone = make(loaded, records=records[2:], seeds=[3], control=control[2:])
    assert abs(whole[2] - alone[0]).max() <= 2


def test_controls_that_do_not_fit_are_refused(bundle, net):
    loaded = use_controlnet(bundle, net)
    control = control_of(loaded)
    with pytest.raises(RequestError, match="has no ControlNet to read the control"):
        make(bundle, control=control)
    with pytest.raises(RequestError, match=r"expected \(1, 17, 2, 2\)"):
        make(loaded, control=control[:, :16])
    with pytest.raises(RequestError, match=r"shape \(2, 17, 2, 2\)"):
        make(loaded, control=control.repeat(2, 1, 1, 1))


def test_the_base_stays_as_it_was(bundle, net):
    before = dict(bundle.transformer.config)
    loaded = use_controlnet(bundle, net)
    assert dict(bundle.transformer.config) == before
    assert bundle.controlnet is None
    assert (bundle.controlnet_path, loaded.controlnet_path) == (None, net)
    assert loaded.card.attribution == ("somebody", "someone else")
    assert not any(parameter.requires_grad for parameter in loaded.controlnet.parameters())
    assert not loaded.controlnet.training


def test_a_climate_encoder_that_was_trained_with_it_is_used(bundle, tmp_path):
    controlnet = build_controlnet(bundle.transformer)
    encoder = deepcopy(bundle.climate_encoder)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    card = {"name": "net", "trained_variables": ["temperature_c"], "trained_anomalies": True}
    for given in (encoder, None):  # the second removes what the first wrote
        save_controlnet(
            controlnet, ControlSpec(), card, tmp_path, base=bundle.transformer,
            climate_encoder=given, dtype=torch.float32,
        )  # fmt: skip
        loaded = use_controlnet(replace(bundle, climate_encoder=None), tmp_path)
        if given is None:
            assert loaded.climate_encoder is None
            assert loaded.card.trained_variables == bundle.card.trained_variables
            assert not loaded.card.trained_anomalies
        else:
            for name, tensor in loaded.climate_encoder.state_dict().items():
                assert torch.equal(tensor, encoder.state_dict()[name]), name
            assert loaded.card.trained_variables == ("temperature_c",)
            assert loaded.card.trained_anomalies
    assert use_controlnet(bundle, tmp_path).climate_encoder is bundle.climate_encoder


def test_a_climate_encoder_of_which_nobody_says_so_knows_no_anomalies(bundle, tmp_path):
    weather = replace(bundle, card=CARD.model_copy(update={"trained_anomalies": True}))
    for encoder, knows in ((None, True), (bundle.climate_encoder, False)):
        save_controlnet(
            build_controlnet(bundle.transformer), ControlSpec(), {}, tmp_path,
            base=bundle.transformer, climate_encoder=encoder,
        )  # fmt: skip
        assert use_controlnet(weather, tmp_path).card.trained_anomalies == knows


@pytest.mark.parametrize(
    ("month", "gap", "note"),
    [
        ("2012-06", 2, None),
        (6, 2, None),
        ("12", 8, "this one is 8 months before it"),
        (8, 12, "this one is 12 months before it"),
        ("2012-09", -1, "this one is 1 months after it"),
    ],
)
def test_the_gap_is_counted_to_the_target(bundle, net, picture, month, gap, note):
    request = ControlRequest(controlnet=net, image=picture, month=month)
    opened = open_control_request(bundle, request, make_tile(month="2012-08"))
    assert opened.provenance["gap_months"] == gap
    assert torch.allclose(opened.control[:, 16], torch.tensor(gap / 6))
    assert [note in text for text in opened.notes] == ([] if note is None else [True])


def test_in_a_mean_year_the_gap_goes_round(bundle, net, picture, tmp_path):
    import shutil

    copy = shutil.copytree(net, tmp_path / "copy")
    described = json.loads((copy / CONTROL_FILE).read_text())
    described["control"]["wrap_year"] = True
    (copy / CONTROL_FILE).write_text(json.dumps(described))
    request = ControlRequest(controlnet=copy, image=picture, month="2004-11")
    opened = open_control_request(bundle, request, make_tile(month="2012-01"))
    assert opened.provenance["gap_months"] == 2


def test_what_only_evolve_can_use_is_refused_with_its_name(bundle, net, picture, tmp_path):
    folder = write_evolver(tmp_path) / CONTROLNET_FOLDER
    asked = {"lat": 10.0, "lon": 20.0, "month": "2012-08", "bundle": bundle, "output": tmp_path}
    with pytest.raises(
        RequestError,
        match=r"reads reference_sin, reference_cos, temperature_now, temperature_change; .* Use "
        f"ecomap evolve --controlnet {folder}",
    ):
        generate(**asked, controlnet=folder, control_image=picture)
    description = folder / CONTROL_FILE
    described = json.loads(description.read_text())
    for control, words in (
        ({"channels": ["reference_valid"], "edit": True}, "one month of a place into another; .*"),
        ({"channels": ["temperature_now"], "image": "canny"}, r"temperature_now; .* without them"),
    ):
        description.write_text(json.dumps(described | {"control": control}))
        with pytest.raises(RequestError, match=words):
            open_control_request(
                bundle, ControlRequest(controlnet=folder, image=picture), make_tile()
            )


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        (SPEC, "generate"),
        (ControlSpec(image="canny"), "generate"),
        (ControlSpec(channels=("reference_valid", "canny", "lineart_standard")), "generate"),
        (ControlSpec(channels=("reference_valid",), edit=True), "evolve"),
        (ControlSpec(channels=("reference_cos",)), "evolve"),
        (ControlSpec(channels=("months_gap", "solar_season")), "evolve"),
        (ControlSpec(image="canny", channels=("solar_season",)), None),
    ],
)
def test_the_command_that_fits_gives_all_channels(spec, command):
    assert fitting_command(spec) == command


@pytest.mark.parametrize(
    ("changes", "target", "message"),
    [
        ({"month": None}, make_tile(), "Give the image's month"),
        ({"month": "June"}, make_tile(), "month is 'June'; expected YYYY-MM"),
        ({"month": 13}, make_tile(), "month is '13'"),
        ({"month": 6}, None, "A prompt has no month"),
    ],
)
def test_months_that_say_nothing_are_refused(bundle, net, picture, changes, target, message):
    request = ControlRequest(controlnet=net, image=picture, **changes)
    with pytest.raises(RequestError, match=message):
        open_control_request(bundle, request, target)


def test_images_of_another_size_are_resampled_with_a_note_or_refused(bundle, net, tmp_path):
    wide, large = tmp_path / "wide.png", tmp_path / "large.png"
    Image.fromarray(made_image(1, 16, 24)).save(wide)
    Image.fromarray(np.kron(made_image(4, 16, 16), np.ones((3, 3, 1), np.uint8))).save(large)
    request = ControlRequest(controlnet=net, image=wide, month="2021-02")
    with pytest.raises(RequestError, match=r"wide\.png is 24 x 16 px; .* squares of 16 px"):
        open_control_request(bundle, request, make_tile())
    opened = open_control_request(bundle, replace(request, image=large), make_tile())
    assert "large.png is 48 px wide and was resampled to 16 px" in opened.notes[0]
    expected = control_of(opened.bundle, gap=1)
    torch.testing.assert_close(opened.control, expected)


def test_a_request_writes_what_controlled_it(bundle, net, picture, tmp_path):
    asked = {"lat": 10.0, "lon": 20.0, "month": "2012-08", "bundle": bundle, "steps": 2}
    controlled = asked | {"controlnet": net, "control_image": picture, "control_month": "6"}
    result = generate(**controlled, number=2, control_scale=0.5, output=tmp_path / "a")
    made = read_provenance(Path(result.images[0]["png"]))["control"]
    assert made["controlnet"] == "net"
    assert made["image"] == "june.png"
    assert (made["gap_months"], made["scale"]) == (2, 0.5)
    assert len(made["controlnet_sha256"]) == len(made["image_sha256"]) == 64
    assert made["spec"]["channels"] == ["months_gap"]
    plain = generate(**asked, output=tmp_path / "b")
    other = generate(**controlled, output=tmp_path / "b")  # another request: other files
    assert plain.images[0]["png"] != other.images[0]["png"]
    one, two = (np.asarray(Image.open(r.images[0]["png"])).astype(int) for r in (plain, other))
    assert abs(one - two).max() > 2


def test_controlnet_and_image_belong_together(bundle, net, picture, tmp_path):
    asked = {"prompt": "Savannas", "bundle": bundle, "output": tmp_path}
    with pytest.raises(RequestError, match="belong together"):
        generate(**asked, controlnet=net)
    with pytest.raises(RequestError, match="belong together"):
        generate(**asked, control_image=picture)
    for alone in ({"control_scale": 0.5}, {"control_month": 3}, {"detector_weights": tmp_path}):
        with pytest.raises(RequestError, match=f"{next(iter(alone))} is given without controlnet"):
            generate(**asked, **alone)
    with pytest.raises(BundleError, match="holds no ControlNet"):
        generate(**asked, controlnet=tmp_path, control_image=picture)


def test_what_it_was_trained_with_is_used_again_or_asked_for(bundle, tmp_path):
    net = build_controlnet(bundle.transformer, extra_channels=1)
    beside = {"name": "made", "adapter": "dry", "adapter_sha256": "ab"}
    card = {"base": beside, "t5_null_tokens": 77, "uses_t5": False}
    save_controlnet(net, SPEC, card, tmp_path, base=bundle.transformer)
    with pytest.raises(BundleError, match=r"with the adapter dry.*made has none"):
        use_controlnet(bundle, tmp_path)
    used = use_controlnet(replace(bundle, adapter=beside), tmp_path)
    assert used.card.t5_null_tokens == 77
    assert used.text_encoder_3 is None
    with pytest.raises(BundleError, match="has another"):
        use_controlnet(replace(bundle, adapter=beside | {"adapter_sha256": "cd"}), tmp_path)
