"""A ControlNet starts as nothing, learns wholly, and is what the stock pipeline loads."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel, StableDiffusion3ControlNetPipeline
from PIL import Image

from ecomap import denoiser
from ecomap.attention import ABSENT, use_biased_attention
from ecomap.card import DOORS, BundleCard
from ecomap.climate_encoder import ClimateEncoder, climate_batch
from ecomap.conditions import Condition, TextEmbedding, join_condition
from ecomap.controlnet import build_controlnet, freeze_unused, run_controlnet
from ecomap.controlnet_files import (
    CONTROL_FILE,
    load_controlnet,
    read_controlnet_card,
    save_controlnet,
)
from ecomap.controls import ControlSpec, encode_control
from ecomap.errors import BundleError, ConfigError
from ecomap.flow import add_noise
from ecomap.learner import FlowBatch, FlowLearner
from ecomap.model import load_bundle, predict_velocity
from ecomap.prompt import Prompt
from ecomap.sample import generate_images
from tests.fakes import TINY_SIZE_PX, made_image, make_tile, write_random_bundle
from tests.full_disk import assert_saved_whole_or_not

SPEC = ControlSpec(channels=("months_gap", "reference_valid"))


def residuals_of(*arguments, **options):
    """What a ControlNet adds to the blocks of its base."""
    return run_controlnet(*arguments, **options).residuals


def make_transformer(*, seed=0, num_layers=4, **changes):
    """A small base whose every weight matters."""
    torch.manual_seed(seed)
    sizes = {
        "sample_size": 4, "in_channels": 16, "out_channels": 16, "num_attention_heads": 2,
        "attention_head_dim": 8, "joint_attention_dim": 24, "caption_projection_dim": 16,
        "pooled_projection_dim": 12, "pos_embed_max_size": 4, "qk_norm": "rms_norm",
    }  # fmt: skip
    transformer = SD3Transformer2DModel(num_layers=num_layers, **(sizes | changes))
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    use_biased_attention(transformer)
    return transformer


def fill_zeros(controlnet):
    """What training does to a new ControlNet: nothing is zero any more."""
    torch.manual_seed(7)
    for module in (controlnet.controlnet_blocks, controlnet.pos_embed_input):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return controlnet


def make_inputs(batch=3, *, extra=0, tokens=6, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    condition = Condition(draw(batch, tokens, 24), torch.zeros(batch, tokens), draw(batch, 12))
    sigma = torch.linspace(0.1, 0.9, batch)
    return draw(batch, 16, 4, 4), draw(batch, 16 + extra, 4, 4), sigma, condition


def test_building_leaves_the_transformer_and_its_config_alone(tmp_path):
    transformer = make_transformer()
    config, weights = dict(transformer.config), transformer.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    fill_zeros(build_controlnet(transformer, num_layers=2, extra_channels=3))
    assert dict(transformer.config) == config
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.items())
    transformer.save_pretrained(tmp_path)
    assert SD3Transformer2DModel.from_pretrained(tmp_path).config.num_layers == 4


def test_blocks_are_copied_and_what_is_new_is_zero():
    transformer = make_transformer(dual_attention_layers=(0, 1, 2))
    controlnet = build_controlnet(transformer, num_layers=2, extra_channels=3)
    assert controlnet.config.dual_attention_layers == (0, 1)
    assert not controlnet.config.force_zeros_for_pooled_projection
    base = transformer.state_dict()
    for name, tensor in controlnet.state_dict().items():
        if name.startswith(("controlnet_blocks.", "pos_embed_input.")):
            assert not tensor.any(), name
        else:
            assert torch.equal(tensor, base[name]), name
    assert controlnet.pos_embed_input.proj.in_channels == 19
    assert len(build_controlnet(transformer).transformer_blocks) == 2  # half


def test_a_base_in_half_precision_gives_a_controlnet_in_full():
    controlnet = build_controlnet(make_transformer().to(torch.bfloat16), num_layers=1)
    assert {parameter.dtype for parameter in controlnet.parameters()} == {torch.float32}


@pytest.mark.parametrize("num_layers", [4, 9])
def test_the_last_block_cannot_be_copied(num_layers):
    with pytest.raises(ConfigError, match=f"num_layers is {num_layers}; the base has 4 .* 1 to 3"):
        build_controlnet(make_transformer(), num_layers=num_layers)


def test_a_base_with_an_adapter_is_refused():
    from peft import LoraConfig

    transformer = make_transformer()
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(BundleError, match="Merge adapters"):
        build_controlnet(transformer, num_layers=2)


@pytest.mark.parametrize("num_layers", [1, 3, 5])
def test_a_new_controlnet_changes_nothing(num_layers):
    transformer = make_transformer(num_layers=8)
    controlnet = build_controlnet(transformer, num_layers=num_layers)
    noisy, control, sigma, condition = make_inputs()
    residuals = residuals_of(controlnet, noisy, control, sigma, condition)
    assert len(residuals) == num_layers
    assert not any(residual.any() for residual in residuals)
    plain = predict_velocity(transformer, noisy, sigma, condition)
    assert torch.equal(
        predict_velocity(transformer, noisy, sigma, condition, residuals=residuals), plain
    )
    fill_zeros(controlnet)
    residuals = residuals_of(controlnet, noisy, control, sigma, condition)
    other = predict_velocity(transformer, noisy, sigma, condition, residuals=residuals)
    assert (other - plain).abs().max() > 0.1 * plain.std()


@torch.no_grad()
def test_without_biases_it_is_the_stock_forward_pass():
    controlnet = fill_zeros(build_controlnet(make_transformer(), num_layers=3, extra_channels=2))
    noisy, control, sigma, condition = make_inputs(extra=2)
    ours = residuals_of(controlnet, noisy, control, sigma, condition, scale=0.7)
    stock = SD3ControlNetModel.from_config(controlnet.config)
    stock.load_state_dict(controlnet.state_dict())
    theirs = stock(
        noisy, controlnet_cond=control, conditioning_scale=0.7, timestep=1000 * sigma,
        encoder_hidden_states=condition.context, pooled_projections=condition.pooled,
        return_dict=False,
    )[0]  # fmt: skip
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_absent_token_has_no_effect():
    controlnet = fill_zeros(build_controlnet(make_transformer(), num_layers=3))
    noisy, control, sigma, condition = make_inputs()
    bias = condition.key_bias.clone()
    bias[:, 4:] = ABSENT
    absent = Condition(condition.context, bias, condition.pooled)
    short = Condition(condition.context[:, :4], bias[:, :4], condition.pooled)
    expected = residuals_of(controlnet, noisy, control, sigma, short)
    for own, other in zip(
        residuals_of(controlnet, noisy, control, sigma, absent), expected, strict=True
    ):
        torch.testing.assert_close(own, other)
    present = residuals_of(controlnet, noisy, control, sigma, condition)
    assert not torch.allclose(present[-1], expected[-1], atol=1e-3)


def gradients(controlnet):
    noisy, control, sigma, condition = make_inputs()
    condition.key_bias[:, 3] = ABSENT
    condition.context.requires_grad_()
    total = sum(
        residual.square().sum()
        for residual in residuals_of(controlnet, noisy, control, sigma, condition)
    )
    total.backward()
    found = {name: parameter.grad for name, parameter in controlnet.named_parameters()}
    return found | {"context": condition.context.grad}


def test_all_that_learns_gets_a_gradient_and_nothing_else_does():
    controlnet = fill_zeros(build_controlnet(make_transformer(), num_layers=2))
    found = gradients(controlnet)
    frozen = {name for name, p in controlnet.named_parameters() if not p.requires_grad}
    assert {name.rsplit(".", 1)[0] for name in frozen} == {
        f"transformer_blocks.1.{part}"
        for part in ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out",
                     "ff_context.net.0.proj", "ff_context.net.2")
    }  # fmt: skip
    without = {name for name, grad in found.items() if grad is None or not grad.any()}
    assert without == frozen


def test_a_lora_learns_nothing_where_nothing_reaches_an_outlet():
    from ecomap.adapter import add_lora

    controlnet = fill_zeros(build_controlnet(make_transformer(), num_layers=2))
    add_lora(controlnet, rank=2, alpha=2, targets=("image", "text", "image_mlp", "text_mlp"))
    for name, parameter in controlnet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    freeze_unused(controlnet)
    found = gradients(controlnet)
    learns = {name for name, parameter in controlnet.named_parameters() if parameter.requires_grad}
    assert any("0.attn.add_q_proj.lora_A" in name for name in learns)
    assert all(found[name] is not None and found[name].any() for name in learns)
    assert not any(".1.ff_context." in name for name in learns)


def test_checkpointing_gives_the_same_gradients():
    transformer = make_transformer()
    plain = gradients(fill_zeros(build_controlnet(transformer, num_layers=2)))
    controlnet = fill_zeros(build_controlnet(transformer, num_layers=2))
    controlnet.enable_gradient_checkpointing()
    calls = []
    function = controlnet._gradient_checkpointing_func
    controlnet._gradient_checkpointing_func = lambda *a: calls.append(1) or function(*a)
    found = gradients(controlnet)
    assert len(calls) == 2
    for name, grad in plain.items():
        if grad is not None:
            torch.testing.assert_close(found[name], grad, msg=name)


@pytest.mark.parametrize("shape", [(3, 16, 4, 4), (3, 18, 2, 2)])
def test_a_control_of_another_shape_is_refused(shape):
    controlnet = build_controlnet(make_transformer(), num_layers=1, extra_channels=2)
    noisy, _, sigma, condition = make_inputs()
    with pytest.raises(BundleError, match="expected 18 channels of the latents' size"):
        residuals_of(controlnet, noisy, torch.zeros(shape), sigma, condition)


@torch.no_grad()
def test_a_saved_controlnet_comes_back(tmp_path):
    transformer = make_transformer()
    controlnet = fill_zeros(build_controlnet(transformer, num_layers=2, extra_channels=2))
    card = {"name": "made", "attribution": ["somebody"]}
    for _ in range(2):  # the second replaces the first
        save_controlnet(
            controlnet, SPEC, card, tmp_path / "net", base=transformer, dtype=torch.float32
        )
    assert {path.name for path in (tmp_path / "net").iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors", CONTROL_FILE,
    }  # fmt: skip
    assert controlnet.dtype == torch.float32
    loaded, spec = load_controlnet(tmp_path / "net", transformer)
    assert spec == SPEC
    assert read_controlnet_card(tmp_path / "net") == card
    inputs = make_inputs(extra=2)
    inputs[-1].key_bias[:, 2] = ABSENT
    for own, other in zip(
        residuals_of(loaded, *inputs), residuals_of(controlnet, *inputs), strict=True
    ):
        assert torch.equal(own, other)
    save_controlnet(controlnet, SPEC, {}, tmp_path / "half", base=transformer)
    half, _ = load_controlnet(tmp_path / "half", transformer.to(torch.bfloat16))
    assert half.dtype == torch.float32


def test_a_full_disk_leaves_the_former_controlnet_whole(tmp_path):
    transformer, folder = make_transformer(), tmp_path / "net"
    net = fill_zeros(build_controlnet(transformer, num_layers=2, extra_channels=2))
    encoder = ClimateEncoder(width=16, num_layers=1, num_heads=2, context_dim=24, pooled_dim=12)

    def save(folder, version, **parts):
        save_controlnet(net, SPEC, {"version": version}, folder, base=transformer, **parts)

    assert_saved_whole_or_not(
        lambda folder: save(folder, "1"),
        lambda folder: save(folder, "2", climate_encoder=encoder),
        folder,
    )
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("of a larger one")
    save(folder, "3")
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors", CONTROL_FILE, "mine",
        "mine.safetensors",
    }  # fmt: skip
    assert read_controlnet_card(folder) == {"version": "3"}
    assert load_controlnet(folder, transformer)[1] == SPEC


@torch.no_grad()
def test_a_lora_on_a_controlnet_is_saved_as_plain_weights(tmp_path):
    from peft import LoraConfig

    transformer = make_transformer()
    controlnet = fill_zeros(build_controlnet(transformer, num_layers=2, extra_channels=2))
    inputs = make_inputs(extra=2)
    plain = residuals_of(controlnet, *inputs)[-1]
    controlnet.add_adapter(
        LoraConfig(r=2, lora_alpha=4, target_modules=["attn.to_q"], init_lora_weights=False)
    )
    expected = residuals_of(controlnet, *inputs)
    assert (expected[-1] - plain).abs().max() > 1e-3
    save_controlnet(controlnet, SPEC, {}, tmp_path / "net", base=transformer, dtype=torch.float32)
    loaded, _ = load_controlnet(tmp_path / "net", transformer)
    for own, other in zip(residuals_of(loaded, *inputs), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    assert torch.equal(residuals_of(controlnet, *inputs)[-1], expected[-1])  # still there


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "net"
    transformer = make_transformer()
    net = build_controlnet(transformer, num_layers=2, extra_channels=2)
    save_controlnet(net, SPEC, {}, folder, base=transformer)
    return folder


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"seed": 5}, "beside another model of the same size"),
        ({"attention_head_dim": 16, "caption_projection_dim": 32}, "attention_head_dim 8, .* 16"),
        ({"joint_attention_dim": 32}, "joint_attention_dim 24, the model 32"),
    ],
)
def test_another_base_is_refused(saved, base, message):
    with pytest.raises(BundleError, match=message):
        load_controlnet(saved, make_transformer(**base))


def test_a_base_that_was_trained_further_is_known_again(saved):
    transformer = make_transformer()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    assert load_controlnet(saved, transformer)[1] == SPEC


def test_an_adapter_is_told_from_a_controlnet(tmp_path):
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(BundleError, match="Give it as --adapter"):
        load_controlnet(tmp_path, make_transformer())


def test_damaged_folders_are_named(saved, tmp_path):
    import shutil

    with pytest.raises(BundleError, match=f"holds no ControlNet of ecomap.*{CONTROL_FILE}"):
        load_controlnet(tmp_path, make_transformer())
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    described = json.loads((copy / CONTROL_FILE).read_text())
    described["control"]["channels"] = ["months_gap"]
    (copy / CONTROL_FILE).write_text(json.dumps(described))
    with pytest.raises(BundleError, match=r"reads 18 channels, but .* describes 17"):
        load_controlnet(copy, make_transformer())
    (copy / CONTROL_FILE).write_text(json.dumps(described | {"control": {"channels": ["smell"]}}))
    with pytest.raises(BundleError, match="smell"):
        load_controlnet(copy, make_transformer())
    shutil.copy(saved / CONTROL_FILE, copy)
    (copy / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_controlnet(copy, make_transformer())


@torch.no_grad()
def test_training_and_sampling_predict_the_same_velocity():
    """`FlowLearner` and the functions that sampling calls see one control alike."""
    transformer = make_transformer()
    controlnet = fill_zeros(build_controlnet(transformer, num_layers=2, extra_channels=2))
    clean, control, sigma, _ = make_inputs(extra=2)
    text = TextEmbedding(torch.randn(3, 5, 20), torch.randn(3, 12))
    learner = FlowLearner(transformer, text_encoders=None, controlnet=controlnet)
    noise = torch.randn_like(clean)
    batch = FlowBatch(
        clean, noise, sigma, text, None, torch.ones(3, dtype=torch.bool), control=control
    )
    condition = join_condition(text, width=24, null_tokens=256)
    noisy = add_noise(clean, noise, sigma)
    residuals = residuals_of(controlnet, noisy, control, sigma, condition)
    velocity = predict_velocity(transformer, noisy, sigma, condition, residuals=residuals)
    expected = (velocity - (noise - clean)).square().mean((1, 2, 3))
    torch.testing.assert_close(learner(batch), expected)
    without = FlowLearner(transformer, text_encoders=None)(batch)
    assert not torch.allclose(without, expected, rtol=1e-2)


def test_it_learns_what_only_the_control_tells():
    """Images are one pattern or its negative; the control shows which, and nothing else does."""
    transformer = make_transformer().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    controlnet = build_controlnet(transformer, num_layers=3)
    learner = FlowLearner(transformer, text_encoders=None, controlnet=controlnet)
    optimizer = torch.optim.Adam(
        [parameter for parameter in learner.parameters() if parameter.requires_grad], lr=0.01
    )
    generator = torch.Generator().manual_seed(2)
    pattern = torch.randn(1, 16, 4, 4, generator=generator)
    text = TextEmbedding(torch.zeros(16, 2, 20), torch.zeros(16, 12))

    def draw():
        sign = torch.randint(0, 2, (16, 1, 1, 1), generator=generator) * 2 - 1
        noise = torch.randn(16, 16, 4, 4, generator=generator)
        sigma = torch.full((16,), 0.95)
        tokens = torch.ones(16, dtype=torch.bool)
        return FlowBatch(sign * pattern, noise, sigma, text, None, tokens, control=sign * pattern)

    for _ in range(100):
        optimizer.zero_grad()
        learner(draw()).mean().backward()
        optimizer.step()
    batch = draw()
    with torch.no_grad():
        right = learner(batch).mean()
        wrong = learner(replace(batch, control=-batch.control)).mean()
        none = learner(replace(batch, control=None)).mean()
    assert right < 0.85 * wrong
    assert right < 0.7 * none
    assert all(torch.equal(before[name], t) for name, t in transformer.state_dict().items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    card = BundleCard(name="made", image_size_px=TINY_SIZE_PX, doors=DOORS)
    return write_random_bundle(tmp_path_factory.mktemp("bundle"), card, dtype=torch.float32)


def test_the_stock_pipeline_makes_the_same_image(folder, tmp_path, monkeypatch):
    """Control image in pixels, its latents shifted and scaled, real pooled vectors: as trained."""
    monkeypatch.setattr(denoiser, "compute_dtype", lambda device: torch.float32)  # as the stock one
    bundle = load_bundle(folder, device="cpu")
    spec = ControlSpec()
    controlnet = fill_zeros(build_controlnet(bundle.transformer))
    save_controlnet(
        controlnet, spec, {}, tmp_path / "net", base=bundle.transformer, dtype=torch.float32
    )
    pipeline = StableDiffusion3ControlNetPipeline.from_pretrained(
        folder, local_files_only=True,
        controlnet=SD3ControlNetModel.from_pretrained(tmp_path / "net", local_files_only=True),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    frame = made_image(4, TINY_SIZE_PX, TINY_SIZE_PX)
    latents = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(5))
    prompt = Prompt("a satellite image of Savannas on July", "unused")
    stock = pipeline(
        prompt.short, height=16, width=16, num_inference_steps=4, guidance_scale=2.5,
        control_image=Image.fromarray(frame), controlnet_conditioning_scale=0.8,
        latents=latents.clone(), output_type="np",
    ).images[0]  # fmt: skip
    controlnet, _ = load_controlnet(tmp_path / "net", bundle.transformer)
    ours = replace(bundle, controlnet=controlnet.eval(), control=spec)

    def image(**changes):
        control = encode_control(spec, bundle.vae, frame[None])
        settings = {"steps": 4, "guidance": 2.5, "solver": "euler", "control_scale": 0.8}
        return generate_images(
            ours, [None], seeds=[5], prompts=[prompt], control=control, **(settings | changes)
        )[0]  # fmt: skip

    made = image()
    assert abs(made / 255.0 - stock).max() < 0.51 / 255
    assert abs(image(control_scale=0.0) / 255.0 - stock).max() > 5 / 255


def test_climate_tokens_reach_the_controlnet_in_sampling(folder):
    """The bias of attention keys is passed on: tokens that are absent do not count."""
    bundle = load_bundle(folder, device="cpu")
    controlnet = fill_zeros(build_controlnet(bundle.transformer)).eval()
    ours = replace(bundle, controlnet=controlnet, control=ControlSpec())
    frame = made_image(4, TINY_SIZE_PX, TINY_SIZE_PX)
    control = encode_control(ControlSpec(), bundle.vae, frame[None]).repeat(2, 1, 1, 1)
    records = [make_tile(temperature_c=30.0), make_tile(temperature_c=-30.0)]
    assert climate_batch(records) is not None

    def images(doors):
        return generate_images(
            ours, records, seeds=[1, 1], prompts=[Prompt("", "")] * 2, control=control, steps=2,
            doors=doors,
        ).astype(int)  # fmt: skip

    told, untold = images(("tokens",)), images(("text",))
    assert abs(told[0] - told[1]).max() > 2
    assert (untold[0] == untold[1]).all()
