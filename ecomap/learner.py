"""What learns, as one module: a batch of noisy latents and conditions -> a loss for each sample.

One module, so that processes which share its gradients see one forward pass. A loss for each
sample, so that a batch gives the same gradient however it is divided among processes and
micro-batches.
"""

from dataclasses import dataclass

from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from ecomap.climate_encoder import ClimateBatch, ClimateEncoder
from ecomap.conditions import Condition, TextEmbedding, TextIds, embed_text, join_condition
from ecomap.controlnet import run_controlnet
from ecomap.edit import EditHead, edit_velocity
from ecomap.flow import add_noise, target_velocity
from ecomap.model import predict_velocity
from ecomap.rows import Rows


@dataclass(frozen=True)
class FlowBatch(Rows):
    """What a step reads of some samples; all of it on one device."""

    clean: Tensor
    """Latents ``(B, C, h, w)``, float32."""
    noise: Tensor
    """Standard normal, shaped like ``clean``."""
    sigma: Tensor
    """Noise level of each sample ``(B,)``, float32."""
    text: TextEmbedding | TextIds
    """Embeddings that were kept, or token ids where text encoders learn."""
    climate: ClimateBatch | None
    """Inputs of the climate encoder; ``None`` where there is none."""
    has_tokens: Tensor
    """bool ``(B,)``: whose climate tokens are there."""
    weights: Tensor | None = None
    """Weight of each latent cell in the loss ``(B, 1, h, w)``, float32, in [0, 1]; all 1 by
    default."""
    control: Tensor | None = None
    """Control ``(B, C + extra, h, w)`` as `ecomap.controls.prepare_control` makes it."""
    null_tokens: float = 256.0
    """Zero tokens that stand for an absent T5."""


class FlowLearner(nn.Module):
    """Transformer and what conditions it, as one function from batches to losses.

    References:
        Esser et al. (2024), Scaling Rectified Flow Transformers for High-Resolution Image
        Synthesis, https://arxiv.org/abs/2403.03206
    """

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        *,
        text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection] | None,
        text_encoder_3: T5EncoderModel | None = None,
        climate_encoder: ClimateEncoder | None = None,
        controlnet: SD3ControlNetModel | None = None,
        edit_head: EditHead | None = None,
    ) -> None:
        """Take the networks as they are.

        Args:
            transformer: With biased attention.
            text_encoders: Both CLIP encoders; ``None`` where batches hold embeddings.
            text_encoder_3: T5; ``None`` where there is none, or batches hold embeddings.
            climate_encoder: ``None`` for text alone.
            controlnet: ``None`` for none.
            edit_head: Where the ControlNet edits its reference.
        """
        super().__init__()
        self.transformer = transformer
        first, second = text_encoders or (None, None)
        self.text_encoder: CLIPTextModelWithProjection | None = first
        self.text_encoder_2: CLIPTextModelWithProjection | None = second
        self.text_encoder_3 = text_encoder_3
        self.climate_encoder = climate_encoder
        self.controlnet = controlnet
        self.edit_head = edit_head

    def forward(self, batch: FlowBatch) -> Tensor:
        """Rectified-flow loss of each sample ``(B,)``: mean over latents of weighted squares.

        Noise is mixed, and errors are squared, in float32 whatever the networks compute in. A cell
        of weight 0 gives no gradient; the mean is over all cells, so that a clear cell counts the
        same in every sample.
        """
        noisy = add_noise(batch.clean, batch.noise, batch.sigma)
        velocity = self.velocity(noisy, batch.sigma, self.condition(batch), batch.control)
        error = (velocity.float() - target_velocity(batch.clean, batch.noise)).square()
        if batch.weights is not None:
            error = error * batch.weights
        return error.mean((1, 2, 3))

    def condition(self, batch: FlowBatch) -> Condition:
        """Condition of a batch."""
        text = batch.text
        if isinstance(text, TextIds):
            text = embed_text(text, (self.text_encoder, self.text_encoder_2), self.text_encoder_3)
        climate = None
        if self.climate_encoder is not None and batch.climate is not None:
            climate = self.climate_encoder(batch.climate)
        return join_condition(
            text,
            width=int(self.transformer.config.joint_attention_dim),
            null_tokens=batch.null_tokens,
            climate=climate,
            has_tokens=batch.has_tokens,
        )

    def velocity(
        self, noisy: Tensor, sigma: Tensor, condition: Condition, control: Tensor | None = None
    ) -> Tensor:
        """Velocity at noisy latents; where there is a control, as its ControlNet has it."""
        if self.controlnet is None or control is None:
            return predict_velocity(self.transformer, noisy, sigma, condition)
        return controlled_velocity(
            self.transformer, self.controlnet, self.edit_head, noisy, control, sigma, condition
        )


def controlled_velocity(
    transformer: SD3Transformer2DModel,
    controlnet: SD3ControlNetModel,
    edit_head: EditHead | None,
    noisy: Tensor,
    control: Tensor,
    sigma: Tensor,
    condition: Condition,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Velocity with a ControlNet, in training and in sampling.

    Args:
        transformer: The base.
        controlnet: Beside it.
        edit_head: Where the ControlNet edits its reference; ``None`` where it only adds residuals.
        noisy: Noisy latents ``(B, C, h, w)``.
        control: ``(B, C + extra, h, w)`` of `ecomap.controls.prepare_control`.
        sigma: Noise level of each sample ``(B,)``.
        condition: What both networks are told.
        scale: Factor of all that the ControlNet does.
    """
    output = run_controlnet(controlnet, noisy, control, sigma, condition, scale=scale)
    velocity = predict_velocity(transformer, noisy, sigma, condition, residuals=output.residuals)
    if edit_head is None:
        return velocity
    edit = edit_head(output.tokens, output.embedding, control)
    reference = control[:, : noisy.shape[1]]
    return edit_velocity(velocity, noisy, sigma, reference, edit, scale=scale)
