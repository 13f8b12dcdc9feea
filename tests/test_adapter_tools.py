import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ecomap import adapter_card, cli
from ecomap.adapter import add_lora, load_adapter, save_adapter
from ecomap.adapter_card import LAYERS_FILE, LORA_FILE, AdapterCard
from ecomap.adapter_tools import merge_to_folder
from ecomap.card import BundleCard
from ecomap.controlnet import build_controlnet
from ecomap.controlnet_files import save_controlnet
from ecomap.controls import ControlSpec
from ecomap.convert_checkpoint import convert_checkpoint
from ecomap.errors import BundleError, RequestError
from ecomap.generate import generate
from ecomap.inspect_model import inspect_model
from ecomap.model import load_bundle
from ecomap.transformer_config import LoraConfig
from tests.fakes import TINY_SIZE_PX, write_random_bundle

OUTPUT_LAYERS = ("norm_out", "proj_out")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, and a LoRA of it with an output layer that was trained whole."""
    folder = tmp_path_factory.mktemp("world")
    card = BundleCard(name="made", image_size_px=TINY_SIZE_PX, doors=("text", "tokens"))
    write_random_bundle(folder, card, dtype=torch.float32)
    base = load_bundle(folder / "bundle", device="cpu")
    transformer = trained(load_bundle(folder / "bundle", device="cpu").transformer)
    about = card.model_copy(update={"name": "wet", "version": "2", "license": "MIT"})
    extra = {n: p for n, p in transformer.named_parameters() if n.startswith(OUTPUT_LAYERS)}
    lora = LoraConfig(rank=3, alpha=7, targets=("image",))
    card = AdapterCard.of(base, about, lora=lora, shift=3.0)
    save_adapter(folder / "wet", transformer, extra=extra, card=card)
    return folder, base, transformer


@torch.no_grad()
def trained(transformer):
    """A LoRA that has moved, and the output layers too, as EcoMapper trains them."""
    add_lora(transformer, rank=3, alpha=7.0)
    generator = torch.Generator().manual_seed(9)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name or name.startswith(OUTPUT_LAYERS):
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return transformer


@torch.no_grad()
def velocity_of(transformer):
    generator = torch.Generator().manual_seed(1)
    width, pooled = (transformer.config[n] for n in ("joint_attention_dim",
                                                     "pooled_projection_dim"))  # fmt: skip
    return transformer(
        hidden_states=torch.randn(2, 16, 2, 2, generator=generator),
        encoder_hidden_states=torch.randn(2, 5, width, generator=generator),
        pooled_projections=torch.randn(2, pooled, generator=generator),
        timestep=torch.tensor([30.0, 700.0]),
    ).sample


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_merged_bundle_makes_what_the_adapter_makes_in_the_stock_pipeline_too(world, tmp_path):
    folder, base, transformer = world
    done = run("model", "merge", folder / "wet", "--base", folder / "bundle", "--output",
               tmp_path / "merged", "--full-precision", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["adapter"]["adapter"] == "wet"
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "merged", local_files_only=True)
    expected = velocity_of(transformer)
    torch.testing.assert_close(velocity_of(pipeline.transformer), expected, atol=1e-5, rtol=0)
    merged = load_bundle(tmp_path / "merged", device="cpu")
    assert (merged.card.name, merged.shift) == ("wet", 3.0)
    assert merged.card.training["merged"]["base"]["sha256"] == base.identity["sha256"]
    assert "license: 'mit'" in (tmp_path / "merged" / "README.md").read_text()


def test_half_precision_rounds_a_merged_bundle(world, tmp_path):
    folder, _, transformer = world
    merge_to_folder(folder / "wet", tmp_path / "half", base=str(folder / "bundle"))
    made = velocity_of(load_bundle(tmp_path / "half", device="cpu").transformer)
    error = (made - velocity_of(transformer)).abs().max()
    assert 0 < error < 0.02 * velocity_of(transformer).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_of_ecomapper_becomes_an_adapter(world, tmp_path, prefix, dtype):
    folder, base, transformer = world
    state = {prefix + n: t.to(dtype) for n, t in transformer.state_dict().items()}
    assert any(".base_layer." in name for name in state)
    save_file(state | {"ema.decay": torch.ones(1)}, tmp_path / "transformer.safetensors")
    done = convert_checkpoint(
        tmp_path / "transformer.safetensors", tmp_path / "sd3-ft", base=str(folder / "bundle"),
        alpha=7.0,
    )  # fmt: skip
    assert (done.rank, done.alpha) == (3, 7.0)
    assert done.adapted_layers == dict.fromkeys(
        ("attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v"), 2
    )
    layers = ("norm_out.linear.bias", "norm_out.linear.weight", "proj_out.bias", "proj_out.weight")
    assert done.trained_whole == list(layers)
    assert done.dropped_as_unknown == ["ema.decay"]
    assert done.dropped_as_base == len(base.transformer.state_dict()) - len(layers)
    for fact in ("rank 3, alpha 7", "2 x attn.to_q", "proj_out.weight", "ema.decay"):
        assert fact in done.render()
    adapted = load_adapter(base, tmp_path / "sd3-ft")
    atol = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(
        velocity_of(adapted.transformer), velocity_of(transformer), atol=atol, rtol=0
    )
    assert adapted.card.training["converted_from"]["file"] == "transformer.safetensors"


def test_alpha_that_was_not_said_is_the_rank_and_is_told(world, tmp_path):
    folder, _, transformer = world
    save_file(transformer.state_dict(), tmp_path / "transformer.safetensors")
    done = run("model", "convert", tmp_path, "--base", folder / "bundle", "--output",
               tmp_path / "out" / "mine", "--name", "mine")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Alpha is not in the file; the rank, 3, was taken." in done.stdout
    assert inspect_model(tmp_path / "out" / "mine").facts["alpha"] == 3.0


def test_a_checkpoint_of_another_base_is_refused_and_nothing_written(world, tmp_path):
    folder, _, transformer = world
    state = transformer.state_dict()
    name = "transformer_blocks.0.attn.to_q.base_layer.weight"
    state[name] = state[name] + 0.1
    save_file(state, tmp_path / "transformer.safetensors")
    with pytest.raises(BundleError, match=r"was not trained on made: its transformer_blocks\.0"):
        convert_checkpoint(tmp_path, tmp_path / "out", base=str(folder / "bundle"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if "lora_" not in n}, "holds no LoRA"),
        (lambda s: {n: t for n, t in s.items() if "to_q.lora_B" not in n}, "is incomplete"),
        (lambda s: s | {"proj_out.lora_A.other.weight": torch.ones(3, 2)}, "named default, other"),
        (
            lambda s: {n.replace("attn.to_q.lora", "norm1.linear.lora"): t for n, t in s.items()},
            "adapts norm1.linear, which no LoRA target",
        ),
    ],
)
def test_checkpoints_that_are_no_such_thing_are_refused(world, tmp_path, change, message):
    folder, _, transformer = world
    save_file(change(dict(transformer.state_dict())), tmp_path / "a.safetensors")
    with pytest.raises(BundleError, match=message):
        convert_checkpoint(tmp_path, tmp_path / "out", base=str(folder / "bundle"))
    assert not (tmp_path / "out").exists()


def test_pickles_are_not_read(world, tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BundleError, match="Pickled weights are not read"):
        convert_checkpoint(tmp_path / "pytorch_model.bin", tmp_path / "out", base="ecomap-tiny")
    with pytest.raises(BundleError, match="holds 0 safetensors files; expected one"):
        convert_checkpoint(tmp_path, tmp_path / "out", base="ecomap-tiny")


def test_nothing_that_is_there_is_overwritten(world, tmp_path):
    folder, _, transformer = world
    save_file(transformer.state_dict(), tmp_path / "transformer.safetensors")
    before = contents(folder)
    words = ("--base", folder / "bundle", "--output", folder / "wet")
    for done in (
        run("model", "merge", folder / "wet", *words),
        run("model", "convert", tmp_path, *words),
    ):
        assert done.exit_code == 2
        assert "is there already and stays" in done.stderr
    assert contents(folder) == before


def test_inspect_says_what_an_adapter_is(world):
    folder, base, _ = world
    found = inspect_model(folder / "wet")
    assert found.kind == "adapter"
    facts = found.facts
    assert (facts["base"], facts["name"], facts["rank"], facts["alpha"]) == (
        "made 0", "wet", 3, 7.0
    )  # fmt: skip
    assert (facts["adapted_layers"], facts["dora"], facts["shift"]) == (8, False, 3.0)
    assert facts["layers_by_name"]["attn.to_out.0"] == 2
    parts = {part.name: part for part in found.parts}
    width = base.transformer.config.num_attention_heads * 8
    assert parts[LORA_FILE].parameters == 8 * 2 * 3 * width
    assert parts[LORA_FILE].dtypes == {"F32": 8 * 2 * 3 * width}
    assert set(parts) == {LORA_FILE, LAYERS_FILE}
    done = run("model", "inspect", folder / "wet")
    assert "adapter  " in done.stdout
    assert "base: made 0" in done.stdout


def test_inspect_says_what_bundles_and_files_are(world, tmp_path):
    folder, base, transformer = world
    found = inspect_model(folder / "bundle")
    parts = {part.name: part for part in found.parts}
    assert found.kind == "bundle"
    assert found.facts["name"] == "made"
    own = sum(t.numel() for t in base.transformer.state_dict().values())
    assert parts["transformer"].parameters == own
    assert {"vae", "text_encoder", "climate_encoder"} <= set(parts)
    save_file(transformer.state_dict(), tmp_path / "transformer.safetensors")
    facts = json.loads(
        run("model", "inspect", tmp_path / "transformer.safetensors", "--json").stdout
    )
    assert facts["kind"] == "weights"
    assert facts["facts"]["whole_checkpoint"]
    assert facts["facts"]["alpha"] == "not stated: readers take the rank"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.json").write_text('{"step": 40}')
    save_file({"weights/a": torch.ones(5)}, tmp_path / "run" / "state.safetensors")
    assert inspect_model(tmp_path / "run").facts == {"step": 40}
    assert inspect_model(tmp_path / "run").parts[0].parameters == 5
    assert inspect_model("ecomap-tiny").facts["image_size_px"] == 128


def test_inspect_says_what_a_controlnet_is(world, tmp_path):
    _, base, _ = world
    net = build_controlnet(base.transformer, num_layers=1, extra_channels=1)
    spec = ControlSpec(image="reference", channels=("reference_valid",))
    card = {"name": "months", "license": "MIT", "training": {"tiles": 3}}
    save_controlnet(net, spec, card, tmp_path, base=base.transformer)
    found = inspect_model(tmp_path)
    assert found.kind == "controlnet"
    assert found.facts["control"]["image"] == "reference"
    assert found.facts["name"] == "months"
    assert sum(p.parameters for p in found.parts) == sum(
        t.numel() for t in net.state_dict().values()
    )
    (tmp_path / "ecomap_control.json").write_text("{")
    with pytest.raises(BundleError, match=r"ecomap_control\.json is damaged"):
        inspect_model(tmp_path)


def test_inspect_refuses_what_it_does_not_know(tmp_path):
    for path, message in (
        ("nowhere", "'nowhere' is no bundle, no adapter, no folder and no file"),
        (str(tmp_path), r"holds none of model_index\.json"),
    ):
        with pytest.raises(BundleError, match=message):
            inspect_model(path)


def ask(world, output, **changes):
    folder, _, _ = world
    asked = {"lat": 10.0, "lon": 20.0, "month": 6, "steps": 2, "device": "cpu"}
    return generate(**(asked | {"bundle": str(folder / "bundle"), "output": output} | changes))


def provenance_of(result):
    return json.loads(Path(result.images[0]["json"]).read_text())


def test_generate_with_an_adapter_says_so_in_the_provenance(world, tmp_path):
    folder, base, _ = world
    plain = ask(world, tmp_path / "plain")
    adapted = ask(world, tmp_path / "wet", adapter=folder / "wet")
    told = provenance_of(adapted)["bundle"]
    assert (told["base"], told["adapter"], told["adapter_scale"]) == ("made", "wet", "1")
    assert told["sha256"] == base.identity["sha256"]
    assert told["adapter_sha256"] == load_adapter(base, folder / "wet").identity["adapter_sha256"]
    first, second = (Path(r.images[0]["png"]).read_bytes() for r in (plain, adapted))
    assert first != second
    none = ask(world, tmp_path / "none", adapter=folder / "wet", adapter_scale=0.0)
    assert provenance_of(none)["bundle"]["adapter_scale"] == "0"
    assert none.images[0]["png"].rsplit("/")[-1] != adapted.images[0]["png"].rsplit("/")[-1]


def test_generate_finds_an_adapter_that_ships_by_its_name(world, tmp_path, monkeypatch):
    folder, _, _ = world
    monkeypatch.setattr(adapter_card, "ADAPTERS_FOLDER", folder)
    assert adapter_card.adapter_names() == ["wet"]
    done = run("generate", "--lat", 10, "--lon", 20, "--month", 6, "--steps", 1, "--adapter", "wet",
               "--bundle", folder / "bundle", "--device", "cpu", "--output", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "wet" in (tmp_path / "index.html").read_text()


def test_generate_refuses_an_adapter_of_another_base(world, tmp_path):
    folder, _, _ = world
    done = run("generate", "--lat", 10, "--lon", 20, "--month", 6, "--adapter", folder / "wet",
               "--device", "cpu", "--output", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 2
    assert "'wet' was trained on made" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(RequestError, match=r"adapter_scale is 0\.5 without an adapter"):
        ask(world, tmp_path / "out", adapter_scale=0.5)


def test_the_lora_of_an_adapter_alone_keeps_its_names(world):
    folder, _, _ = world
    names = set(load_file(folder / "wet" / LORA_FILE))
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in names
    assert all(name.startswith("transformer.") for name in names)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_had_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BundleError, match="hf auth login") as error:
        load_bundle("someone/sd3-that-is-not-here")
    for words in ("https://huggingface.co/someone/sd3-that-is-not-here", "ecomap-tiny"):
        assert words in str(error.value)
