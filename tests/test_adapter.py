import json
import math
from dataclasses import replace

import pytest
import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from ecomap.adapter import add_lora, load_adapter, lora_targets, merge_adapter, save_adapter
from ecomap.adapter_card import (
    LAYERS_FILE,
    LORA_FILE,
    AdapterCard,
    adapter_path,
    base_identity,
    read_adapter_card,
)
from ecomap.card import BundleCard
from ecomap.climate_encoder import ClimateEncoder, climate_batch
from ecomap.errors import BundleError, ConfigError
from ecomap.model import Bundle, load_bundle, save_bundle
from ecomap.silent_t5 import build_silent_t5
from ecomap.transformer_config import LoraConfig
from tests.fakes import TINY_SIZE_PX, make_tile, write_random_bundle
from tests.full_disk import assert_saved_whole_or_not

ALL = ("image", "text", "image_mlp", "text_mlp")
TINY = {
    "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "joint_attention_dim": 16,
    "caption_projection_dim": 16, "pooled_projection_dim": 16, "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    card = BundleCard(name="made", image_size_px=TINY_SIZE_PX, doors=("text", "tokens"))
    folder = write_random_bundle(tmp_path_factory.mktemp("base"), card, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def base(base_folder) -> Bundle:
    return load_bundle(base_folder, device="cpu")


def transformer_of(seed=0, **changes) -> SD3Transformer2DModel:
    torch.manual_seed(seed)
    return SD3Transformer2DModel(**(TINY | changes))


def inputs_for(transformer, seed=1):
    generator = torch.Generator().manual_seed(seed)
    config = transformer.config
    return {
        "hidden_states": torch.randn(2, 16, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(
            2, 5, config.joint_attention_dim, generator=generator
        ),
        "pooled_projections": torch.randn(
            2, config.pooled_projection_dim, generator=generator
        ),
        "timestep": torch.tensor([30.0, 700.0]),
    }  # fmt: skip


@torch.no_grad()
def velocity_of(transformer, **changes):
    return transformer(**inputs_for(transformer), **changes).sample


@torch.no_grad()
def trained(base: Bundle, **settings):
    """The base's transformer with a LoRA that has moved, and the output layer too."""
    transformer = load_bundle(base.path, device="cpu").transformer
    add_lora(transformer, **({"rank": 3, "alpha": 7.0, "targets": ALL} | settings))
    generator = torch.Generator().manual_seed(9)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name or name.startswith("proj_out"):
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return transformer


def saved(base, folder, *, extra=False, card=None, lora=None, **settings):
    transformer = trained(base, **settings)
    layers = {n: p for n, p in transformer.named_parameters() if n.startswith("proj_out")}
    if not extra:
        own = dict(base.transformer.named_parameters())
        for name, parameter in layers.items():
            parameter.data = own[name].data
    about = base.card.model_copy(update={"name": "made-lora", "version": "3"})
    save_adapter(
        folder, transformer, extra=layers if extra else None,
        card=card or AdapterCard.of(base, about, lora=lora),
    )  # fmt: skip
    return transformer


def test_targets_are_the_named_projections_of_each_block_but_what_nothing_reads():
    transformer = transformer_of()
    found = lora_targets(transformer, ("image",))
    assert found[:4] == [f"transformer_blocks.0.attn.{n}" for n in
                         ("to_q", "to_k", "to_v", "to_out.0")]  # fmt: skip
    assert len(found) == 8
    text = lora_targets(transformer, ("text", "text_mlp"))
    assert "transformer_blocks.0.ff_context.net.2" in text
    of_last = [name.removeprefix("transformer_blocks.1.") for name in text if ".1." in name]
    assert of_last == ["attn.add_k_proj", "attn.add_v_proj"]
    dual = lora_targets(transformer_of(dual_attention_layers=(0,)), ("image",))
    assert [n for n in dual if "attn2" in n] == [
        f"transformer_blocks.0.attn2.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")
    ]


def test_an_unknown_target_is_refused():
    with pytest.raises(ConfigError, match=r"'attention'; choose from image, text"):
        lora_targets(transformer_of(), ("attention",))
    with pytest.raises(ConfigError, match="no layers of the LoRA targets"):
        lora_targets(transformer_of(), ())


@pytest.mark.parametrize(
    ("rank", "targets", "millions"),
    [(16, ("image",), 4.718592), (64, ("image",), 18.874368), (64, ("image", "text"), 37.35552)],
)
def test_sizes_at_the_size_of_sd3_medium(rank, targets, millions):
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, attention_head_dim=64, joint_attention_dim=4096,
            caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=192,
        )  # fmt: skip
        add_lora(transformer, rank=rank, alpha=rank, targets=targets)
    learning = sum(p.numel() for p in transformer.parameters() if p.requires_grad)
    assert learning == round(millions * 1e6)


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True, "gaussian": False}])
def test_a_new_lora_changes_nothing_and_alone_learns(settings):
    transformer = transformer_of()
    before = velocity_of(transformer)
    add_lora(transformer, rank=4, alpha=16, targets=ALL, **settings)
    assert torch.equal(velocity_of(transformer), before)
    learning = {n for n, p in transformer.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in transformer.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("kind", ["transformer", "controlnet"])
def test_every_parameter_of_a_lora_learns(kind):
    model = transformer_of()
    arguments = inputs_for(model)
    if kind == "controlnet":
        model = SD3ControlNetModel(**TINY, extra_conditioning_channels=0)
        for outlet in model.controlnet_blocks:
            torch.nn.init.normal_(outlet.weight)
        arguments["controlnet_cond"] = arguments["hidden_states"]
    add_lora(model, rank=2, alpha=2, targets=ALL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # while B is zero, A has no gradient
                torch.nn.init.normal_(parameter)
    outputs = model(**arguments, return_dict=False)[0]
    sum(output.square().sum() for output in outputs).backward()
    still = [n for n, p in model.named_parameters() if p.requires_grad and
             (p.grad is None or not p.grad.any())]  # fmt: skip
    assert still == []


def test_lora_weights_are_float32_and_move_on_a_bfloat16_base():
    transformer = transformer_of().bfloat16()
    add_lora(transformer, rank=2, alpha=2)
    learning = {n: p for n, p in transformer.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learning.values()} == {torch.float32}
    assert transformer.proj_out.weight.dtype == torch.bfloat16
    step = 1e-4  # lost where a weight near 0.3 is rounded to bfloat16
    name = next(n for n in learning if "lora_A" in n)
    learning[name].data.fill_(0.3)
    learning[name].data += step
    assert learning[name].mean().item() == pytest.approx(0.3 + step, rel=1e-6)
    arguments = {k: v.bfloat16() for k, v in inputs_for(transformer).items()}
    transformer(**arguments).sample.float().sum().backward()


def test_the_start_depends_on_its_seed_alone():
    first, second, other = transformer_of(), transformer_of(), transformer_of()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    add_lora(first, rank=2, alpha=2, seed=5)
    assert torch.equal(torch.rand(1), expected)  # others' draws are left alone
    add_lora(second, rank=2, alpha=2, seed=5)
    add_lora(other, rank=2, alpha=2, seed=6)
    name = "transformer_blocks.0.attn.to_q.lora_A.default.weight"
    assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True}])
def test_what_is_saved_is_what_the_stock_pipeline_and_we_load(base, tmp_path, settings):
    transformer = saved(base, tmp_path / "lora", **settings)
    expected = velocity_of(transformer)
    assert (expected - velocity_of(base.transformer)).abs().max() > 0.01
    pipeline = StableDiffusion3Pipeline.from_pretrained(base.path, local_files_only=True)
    pipeline.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(velocity_of(pipeline.transformer), expected, atol=1e-6, rtol=0)
    adapted = load_adapter(base, tmp_path / "lora")
    torch.testing.assert_close(velocity_of(adapted.transformer), expected, atol=1e-5, rtol=0)


def test_alpha_is_in_the_file(base, tmp_path):
    transformer = saved(base, tmp_path / "lora", rank=4, alpha=6.0, rslora=True)
    layer = transformer.transformer_blocks[0].attn.to_q
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    adapted = load_adapter(base, tmp_path / "lora").transformer.transformer_blocks[0].attn.to_q
    own = base.transformer.transformer_blocks[0].attn.to_q
    expected = own.weight + update * 6.0 / math.sqrt(4)
    torch.testing.assert_close(adapted.weight, expected, atol=1e-6, rtol=0)


def test_the_same_adapter_is_the_same_bytes(base, tmp_path):
    for name in ("first", "second"):
        saved(base, tmp_path / name)
    first, second = (tmp_path / name / LORA_FILE for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("settings", [{}, {"dora": True}])
def test_scale_leads_from_the_base_to_the_adapter(base, tmp_path, settings):
    saved(base, tmp_path / "lora", extra=True, **settings)
    none = load_adapter(base, tmp_path / "lora", scale=0.0)
    for name, parameter in base.transformer.named_parameters():
        assert torch.equal(none.transformer.get_parameter(name), parameter)
    half, whole = (load_adapter(base, tmp_path / "lora", scale=s) for s in (0.5, 1.0))
    for name in ("proj_out.weight", "transformer_blocks.1.attn.to_v.weight"):
        own, between, end = (b.transformer.get_parameter(name) for b in (base, half, whole))
        assert not torch.equal(own, end)
        torch.testing.assert_close(between, (own + end) / 2, atol=1e-6, rtol=0)


def test_a_loaded_adapter_shares_what_does_not_change_and_leaves_the_base_alone(base, tmp_path):
    saved(base, tmp_path / "lora", extra=True, targets=("image",))
    before = {n: p.clone() for n, p in base.transformer.named_parameters()}
    adapted = load_adapter(base, tmp_path / "lora")
    own = dict(adapted.transformer.named_parameters())
    assert own.keys() == before.keys()
    for name, parameter in base.transformer.named_parameters():
        assert torch.equal(parameter, before[name])
        changes = ".to_" in name and name.endswith("weight") and "to_add_out" not in name
        assert (own[name] is not parameter) == (changes or name.startswith("proj_out"))
    assert not any(p.requires_grad for p in own.values())
    assert not hasattr(adapted.transformer, "peft_config")


def test_card_schedule_and_identity_are_those_of_the_adapter(base, tmp_path):
    about = base.card.model_copy(update={"name": "wet", "version": "2", "limits": "none"})
    card = AdapterCard.of(base, about, lora=LoraConfig(rank=3), shift=3.0)
    saved(base, tmp_path / "lora", card=card)
    adapted = load_adapter(base, tmp_path / "lora", scale=0.5)
    assert adapted.card == about
    assert (adapted.shift, base.shift) == (3.0, 1.0)
    identity = adapted.identity
    assert base.identity.items() <= (identity | {"name": "made", "version": "0"}).items()
    assert (identity["base"], identity["adapter"]) == ("made", "wet")
    assert identity["adapter_scale"] == "0.5"
    again = load_adapter(base, tmp_path / "lora").identity
    assert again["adapter_sha256"] == identity["adapter_sha256"]
    saved(base, tmp_path / "lora", card=card, rank=4)
    other = load_adapter(base, tmp_path / "lora").identity
    assert other["adapter_sha256"] != identity["adapter_sha256"]
    assert read_adapter_card(tmp_path / "lora").lora.alpha == 3.0


def test_adapters_one_upon_another_are_both_named(base, tmp_path):
    saved(base, tmp_path / "first")
    saved(base, tmp_path / "second", rank=2)
    once = load_adapter(base, tmp_path / "first")
    with pytest.raises(BundleError, match="has the same sizes and other weights"):
        load_adapter(once, tmp_path / "second")  # it says that it was trained on the base alone
    (tmp_path / "second" / "adapter.json").unlink()
    twice = load_adapter(once, tmp_path / "second", scale=0.5)
    assert twice.identity["adapter_scale"] == "1 + 0.5"
    name = "transformer_blocks.0.attn.to_q.weight"
    own, first, both = (b.transformer.get_parameter(name) for b in (base, once, twice))
    alone = load_adapter(base, tmp_path / "second", scale=0.5).transformer.get_parameter(name)
    torch.testing.assert_close(both, first + alone - own, atol=1e-6, rtol=0)


def test_a_climate_encoder_and_text_encoders_come_along(base, base_folder, tmp_path):
    encoder = ClimateEncoder.from_pretrained(base_folder / "climate_encoder")
    text = load_bundle(base_folder, device="cpu").text_encoders
    with torch.no_grad():
        for module in (encoder, *text):
            for parameter in module.parameters():
                parameter += 0.25
    transformer = trained(base)
    card = AdapterCard.of(base, base.card)
    save_adapter(
        tmp_path / "all", transformer, card=card, climate_encoder=encoder, text_encoders=text
    )
    adapted = load_adapter(base, tmp_path / "all")
    batch = climate_batch([make_tile()])
    with torch.no_grad():
        torch.testing.assert_close(adapted.climate_encoder(batch), encoder(batch))
    for own, other in zip(adapted.text_encoders, text, strict=True):
        torch.testing.assert_close(own.state_dict(), other.state_dict())
    half = load_adapter(base, tmp_path / "all", scale=0.5)
    torch.testing.assert_close(
        half.climate_encoder.month_in.weight, base.climate_encoder.month_in.weight + 0.125
    )
    bare = load_adapter(replace(base, climate_encoder=None), tmp_path / "all", scale=0.5)
    torch.testing.assert_close(bare.climate_encoder.state_dict(), encoder.state_dict())
    config = json.loads((tmp_path / "all" / "text_encoder" / "config.json").read_text())
    assert "_name_or_path" not in config


def test_a_merged_bundle_is_base_and_adapter_in_one_folder(base, tmp_path):
    transformer = saved(base, tmp_path / "lora")
    merged = merge_adapter(base, tmp_path / "lora")
    save_bundle(merged, tmp_path / "merged", dtype=torch.float32)
    loaded = load_bundle(tmp_path / "merged", device="cpu")
    torch.testing.assert_close(
        velocity_of(loaded.transformer), velocity_of(transformer), atol=1e-5, rtol=0
    )
    told = loaded.card.training["merged"]
    assert told["base"] == base.identity
    assert told["adapter"]["adapter"] == "made-lora"
    assert len(told["adapter"]["adapter_sha256"]) == 64


def test_merging_into_bfloat16_rounds_once(base, tmp_path):
    saved(base, tmp_path / "lora")
    exact = load_adapter(base, tmp_path / "lora").transformer
    half = replace(base, transformer=load_bundle(base.path, device="cpu").transformer.bfloat16())
    coarse = load_adapter(half, tmp_path / "lora").transformer
    name = "transformer_blocks.0.attn.to_q.weight"
    own = half.transformer.get_parameter(name).float()
    update = exact.get_parameter(name) - base.transformer.get_parameter(name)
    assert torch.equal(coarse.get_parameter(name), (own + update).bfloat16())
    assert {p.dtype for p in coarse.parameters()} == {torch.bfloat16}


def test_a_bare_lora_of_diffusers_keeps_the_base_card(base, tmp_path):
    transformer = saved(base, tmp_path / "lora")
    (tmp_path / "lora" / "adapter.json").unlink()
    adapted = load_adapter(base, tmp_path / "lora")
    assert adapted.card == base.card
    assert adapted.identity["adapter"] == "lora"
    torch.testing.assert_close(
        velocity_of(adapted.transformer), velocity_of(transformer), atol=1e-5, rtol=0
    )


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    saved(base, tmp_path / "lora")
    for name, transformer in (
        ("wide", transformer_of(joint_attention_dim=40, pooled_projection_dim=32, num_layers=3)),
        ("other", SD3Transformer2DModel.from_config(dict(base.transformer.config))),
    ):
        card = base.card.model_copy(update={"name": name})
        with pytest.raises(BundleError, match=r"trained on made.*Give --bundle made") as error:
            load_adapter(replace(base, card=card, transformer=transformer), tmp_path / "lora")
        assert name in str(error.value)


def altered(base, change):
    transformer = SD3Transformer2DModel.from_config(dict(base.transformer.config))
    state = base.transformer.state_dict()
    transformer.load_state_dict({name: change(name, tensor) for name, tensor in state.items()})
    return replace(base, transformer=transformer)


def test_a_rounded_base_is_the_base_and_a_fine_tuned_one_is_not(base, tmp_path):
    saved(base, tmp_path / "lora", extra=True)
    for dtype in (torch.float16, torch.bfloat16):
        load_adapter(altered(base, lambda _, t, d=dtype: t.to(d).float()), tmp_path / "lora")
    generator = torch.Generator().manual_seed(3)
    tuned = altered(
        base,
        lambda name, t: t + 0.01 * torch.randn(t.shape, generator=generator)
        if name.startswith("transformer_blocks.1.") else t,
    )  # fmt: skip
    with pytest.raises(BundleError, match="has the same sizes and other weights"):
        load_adapter(tuned, tmp_path / "lora")


def test_a_base_is_known_by_what_does_not_learn(base):
    same = load_bundle(base.path, device="cpu")
    add_lora(same.transformer, rank=2, alpha=2, targets=ALL)
    with torch.no_grad():
        for name, parameter in same.transformer.named_parameters():
            if name.startswith("proj_out"):
                parameter.requires_grad_(True).add_(1.0)
    identity = base_identity(same)
    assert not any(name.startswith("proj_out") for name in identity.marks)
    identity.check(base, "mine")


def test_an_adapter_of_a_merged_base_asks_for_that_base(base, tmp_path):
    saved(base, tmp_path / "first")
    merged = merge_adapter(base, tmp_path / "first")
    card = AdapterCard.of(merged, base.card.model_copy(update={"name": "later"}))
    assert card.base.name == "made"
    saved(base, tmp_path / "second", card=card)
    with pytest.raises(BundleError, match="on made with the adapter made-lora merged into it"):
        load_adapter(base, tmp_path / "second")
    load_adapter(merged, tmp_path / "second")
    save_bundle(merged, tmp_path / "merged", dtype=torch.float16)
    stored = load_bundle(tmp_path / "merged", device="cpu")
    load_adapter(stored, tmp_path / "second")
    assert base_identity(stored).files["adapter"] == "made-lora"


def test_a_bare_lora_of_other_sizes_is_refused(base, tmp_path):
    saved(base, tmp_path / "lora")
    (tmp_path / "lora" / "adapter.json").unlink()
    wide = transformer_of(num_attention_heads=4, caption_projection_dim=32)
    with pytest.raises(BundleError, match=r"does not fit made: \d+ of its weights, such as trans"):
        load_adapter(replace(base, transformer=wide), tmp_path / "lora")


def test_what_is_damaged_or_foreign_is_refused(base, tmp_path):
    folder = tmp_path / "lora"
    saved(base, folder, extra=True)
    tensors = load_file(folder / LORA_FILE)
    save_file(tensors, folder / LORA_FILE, metadata={"format": "pt"})
    with pytest.raises(BundleError, match="lacks the metadata that states alpha"):
        load_adapter(base, folder)
    save_file({f"lora_unet_{n}": t for n, t in tensors.items()}, folder / LORA_FILE)
    with pytest.raises(BundleError, match=r"names lora_unet_.*Expected a LoRA of diffusers"):
        load_adapter(base, folder)
    (folder / LORA_FILE).write_bytes(b"no safetensors")
    with pytest.raises(BundleError, match="cannot be read"):
        load_adapter(base, folder)
    (folder / LAYERS_FILE).unlink()
    with pytest.raises(BundleError, match=f"lacks {LAYERS_FILE}, which its card names"):
        load_adapter(base, folder)
    (folder / "adapter.json").write_text("{}")
    with pytest.raises(BundleError, match=r"adapter\.json: base is missing"):
        load_adapter(base, folder)


def test_an_absent_adapter_names_those_that_ship(tmp_path):
    with pytest.raises(BundleError, match="'nowhere' is no adapter and no folder"):
        adapter_path("nowhere")
    with pytest.raises(BundleError, match="is a folder with neither"):
        adapter_path(tmp_path)


def test_saving_replaces_an_adapter_and_nothing_else(base, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(BundleError, match="holds something that is no adapter"):
        saved(base, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    saved(base, tmp_path / "lora", extra=True)
    saved(base, tmp_path / "lora")
    assert {p.name for p in tmp_path.iterdir()} == {"thesis", "lora"}
    assert not (tmp_path / "lora" / LAYERS_FILE).exists()
    card = AdapterCard.of(base, base.card)
    with pytest.raises(BundleError, match="has no weights"):
        save_adapter(tmp_path / "empty", base.transformer, card=card)
    assert not (tmp_path / "empty").exists()


def test_a_full_disk_leaves_the_former_adapter_whole(base, tmp_path):
    folder = tmp_path / "lora"
    assert_saved_whole_or_not(
        lambda folder: saved(base, folder), lambda folder: saved(base, folder, extra=True), folder
    )
    assert (folder / LAYERS_FILE).is_file()
    saved(base, folder)
    assert not (folder / LAYERS_FILE).exists()
    assert (folder / "mine" / "notes.txt").is_file()
    load_adapter(base, folder)


def test_the_readme_says_what_a_model_card_must(base, tmp_path):
    about = base.card.model_copy(
        update={
            "name": "s2", "limits": "Six places.", "imagery": "Sentinel-2 of six places.",
            "license": "CC-BY-4.0", "attribution": ("Copernicus",),
            "training": {"tiles": 7, "metrics": {"val_loss": 0.25}},
        }
    )  # fmt: skip
    lora = LoraConfig(rank=3, alpha=7, targets=ALL)
    saved(base, tmp_path / "lora", extra=True, card=AdapterCard.of(base, about, lora=lora))
    text = (tmp_path / "lora" / "README.md").read_text()
    for fact in (
        "license: 'cc-by-4.0'", "base_model: 'made'", "# s2 0", "Six places.", "Copernicus",
        "Sentinel-2 of six places.", "tiles: 7", "| val_loss | 0.25 |", "synthetic",
        "LoRA of rank 3, alpha 7, of image, text, image_mlp, text_mlp",
        "pipe.load_lora_weights(FOLDER)` reads", f"nothing of {LAYERS_FILE}",
    ):  # fmt: skip
        assert fact in text, fact


def test_a_base_is_known_by_its_files_sizes_and_weights(base):
    identity = base_identity(base)
    assert identity.files == {"sha256": base.identity["sha256"]}
    assert identity.sizes["num_layers"] == 2
    own = dict(base.transformer.named_parameters())
    name, value = next(iter(identity.marks.items()))
    assert value == pytest.approx(own[name].flatten()[own[name].numel() // 2].item(), rel=1e-5)
    blocks = {name.split(".")[1] for name in identity.marks if name.startswith("transformer_b")}
    assert blocks == {"0", "1"}


def test_an_adapter_that_was_trained_without_t5_is_used_without(base, tmp_path):
    about = base.card.model_copy(update={"name": "mute", "uses_t5": False})
    saved(base, tmp_path / "mute", card=AdapterCard.of(base, about))
    saved(base, tmp_path / "plain")
    tokenizer, encoder = build_silent_t5(base.transformer.config.joint_attention_dim)
    speaking = replace(base, tokenizer_3=tokenizer, text_encoder_3=encoder)
    assert load_adapter(speaking, tmp_path / "mute").text_encoder_3 is None
    assert load_adapter(speaking, tmp_path / "plain").text_encoder_3 is encoder
