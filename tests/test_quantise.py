from importlib.util import find_spec

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from ecomap.adapter import add_lora
from ecomap.attention import use_biased_attention
from ecomap.errors import BundleError, ConfigError
from ecomap.quantise import BYTES_PER_WEIGHT, quantise_transformer

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def make_transformer(**lora):
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=16, out_channels=16, num_layers=2, num_attention_heads=4,
        attention_head_dim=32, joint_attention_dim=64, caption_projection_dim=128,
        pooled_projection_dim=32, pos_embed_max_size=8,
    )  # fmt: skip
    use_biased_attention(transformer)
    transformer.requires_grad_(False)
    add_lora(transformer, rank=4, alpha=4, **lora)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return transformer


def velocity(transformer):
    generator = torch.Generator().manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        return transformer(
            hidden_states=torch.randn(2, 16, 8, 8, generator=generator),
            timestep=torch.tensor([300.0, 700.0]),
            encoder_hidden_states=torch.randn(2, 5, 64, generator=generator),
            pooled_projections=torch.randn(2, 32, generator=generator),
            joint_attention_kwargs={"key_bias": torch.zeros(2, 5)},
            return_dict=False,
        )[0].float()


def stored_bytes(tensor):
    """Bytes of a tensor, or of the tensors that a quantised one is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(stored_bytes(getattr(tensor, name)) for name in names)


@needs_torchao
@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.03), ("int4", 0.3)])
def test_quantised_base_gives_nearly_the_same_velocity(kind, tolerance):
    transformer = make_transformer()
    exact = velocity(transformer)
    assert quantise_transformer(transformer, kind) >= 2 * 10
    difference = velocity(transformer) - exact
    assert 0 < difference.norm() / exact.norm() < tolerance


@needs_torchao
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_lora_on_a_quantised_base_learns_in_float32(kind):
    transformer = make_transformer()
    quantise_transformer(transformer, kind)
    learning = {n: p for n, p in transformer.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in learning.items())
    velocity(transformer).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning.values())


@needs_torchao
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_matrices_take_the_stated_memory(kind):
    transformer = make_transformer()
    quantise_transformer(transformer, kind)
    weight = transformer.transformer_blocks[0].ff.net[2].weight
    assert stored_bytes(weight) == pytest.approx(BYTES_PER_WEIGHT[kind] * weight.numel(), rel=0.05)
    frozen = transformer.proj_out.weight
    assert frozen.dtype == torch.bfloat16


@needs_torchao
def test_quantised_base_works_without_gradients():
    transformer = make_transformer()
    quantise_transformer(transformer, "int4")
    with torch.inference_mode():
        assert velocity(transformer).isfinite().all()


@needs_torchao
def test_nothing_to_quantise_is_refused():
    transformer = make_transformer()
    transformer.requires_grad_(True)
    with pytest.raises(BundleError, match="no matrix"):
        quantise_transformer(transformer, "int8")


def test_dora_is_refused():
    with pytest.raises(ConfigError, match="dora"):
        quantise_transformer(make_transformer(dora=True), "int8")


def test_absent_torchao_is_named_with_the_command_that_installs_it(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("ecomap.quantise.import_module", absent)
    with pytest.raises(BundleError, match=r"pip install 'ecomap\[quantised\]'"):
        quantise_transformer(make_transformer(), "int8")
