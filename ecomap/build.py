"""Build an untrained bundle of SD3's kind from its sizes."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from ecomap.attention import use_biased_attention
from ecomap.autoencoder import LATENT_CHANNELS, LATENT_FACTOR, Vae
from ecomap.card import BundleCard
from ecomap.climate_encoder import ClimateEncoder
from ecomap.model import Bundle
from ecomap.tokenizer import build_clip_tokenizer
from ecomap.transformer_config import TransformerConfig

PATCH = 2
"""Latent cells a side of an image token, as in SD3."""


def build_bundle(config: TransformerConfig, card: BundleCard, vae: Vae, shift: float) -> Bundle:
    """Build an untrained bundle of SD3's kind.

    Args:
        config: Sizes.
        card: What it will be.
        vae: Its autoencoder.
        shift: Resolution shift of its schedule.
    """
    width = config.num_heads * config.head_width
    transformer = SD3Transformer2DModel(
        sample_size=card.image_size_px // LATENT_FACTOR,
        patch_size=PATCH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_width,
        joint_attention_dim=config.joint_attention_width,
        caption_projection_dim=width,
        pooled_projection_dim=2 * config.text_width,
        pos_embed_max_size=config.max_latent_side // PATCH,
        qk_norm="rms_norm",
    )
    initialise(transformer)
    use_biased_attention(transformer)
    climate_encoder = ClimateEncoder(
        width=config.climate_width,
        num_layers=config.climate_layers,
        num_heads=config.climate_heads,
        context_dim=config.joint_attention_width,
        pooled_dim=2 * config.text_width,
    )
    # Zero suits a pretrained base; an untrained one has no pooled embedding to protect.
    nn.init.xavier_uniform_(climate_encoder.pooled_out.weight)
    tokenizers = (build_clip_tokenizer(), build_clip_tokenizer())
    return Bundle(
        path=Path(),
        card=card,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        tokenizers=tokenizers,
        text_encoders=(_text_encoder(config, tokenizers[0]), _text_encoder(config, tokenizers[1])),
        climate_encoder=climate_encoder,
    )


def initialise(transformer: SD3Transformer2DModel) -> None:
    """Start every block as the identity and the output at zero; the rest by Xavier's rule.

    References:
        Peebles & Xie (2023), Scalable Diffusion Models with Transformers (adaLN-Zero),
        https://arxiv.org/abs/2212.09748
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = transformer.transformer_blocks
    modulations = [block.norm1.linear for block in blocks]
    modulations += [block.norm1_context.linear for block in blocks]
    for linear in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    for linear in (
        transformer.time_text_embed.timestep_embedder.linear_1,
        transformer.time_text_embed.timestep_embedder.linear_2,
    ):
        nn.init.normal_(linear.weight, std=0.02)


def _text_encoder(
    config: TransformerConfig, tokenizer: CLIPTokenizer
) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder for a tokenizer."""
    return CLIPTextModelWithProjection._from_config(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        attn_implementation="eager",  # faster than the fused kernel on a CPU at this length
    )
