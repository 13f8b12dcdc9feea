"""Embeddings of prompts: encoded once, kept on disk, and found by their texts.

They are kept in half precision. A T5 ends with a norm, so that none of its outputs is larger than
the root of its width times its largest norm weight, far below what half precision holds; and inner
layers of CLIP stay in the hundreds. Whatever is larger all the same is refused, not cut.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from ecomap.conditions import TextEmbedding, embed_text, tokenize
from ecomap.errors import BundleError, DataError
from ecomap.kept_rows import KeptRows, fill, key_of
from ecomap.model import Bundle
from ecomap.network_identity import network_digest, tokenizer_digest
from ecomap.prompt import Prompt, PromptMasks, draw_prompt
from ecomap.schema import TileRecord


@dataclass(frozen=True)
class TextShapes:
    """Shapes of one prompt's embeddings, which lie end to end in one row."""

    clip: tuple[int, int]
    """Tokens, and widths of both CLIP encoders together."""
    pooled: tuple[int]
    t5: tuple[int, int] | None
    """``None`` where there is no T5."""

    @property
    def row(self) -> tuple[int]:
        """Shape of a row."""
        return (sum(math.prod(shape) for shape in self._all),)

    @property
    def _all(self) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = [self.clip, self.pooled]
        return shapes if self.t5 is None else [*shapes, self.t5]

    def join(self, text: TextEmbedding) -> np.ndarray:
        """Rows of a batch of embeddings, float32."""
        parts = [text.clip, text.pooled] + ([] if text.t5 is None else [text.t5])
        rows: np.ndarray = torch.cat([p.flatten(1).float() for p in parts], dim=1).cpu().numpy()
        return rows

    def part(self, rows: np.ndarray) -> TextEmbedding:
        """Embeddings of a batch of rows, float32; the inverse of `join`."""
        flat = torch.from_numpy(rows.astype(np.float32))
        pieces = torch.split(flat, [math.prod(shape) for shape in self._all], dim=1)
        parts: list[Tensor] = [
            piece.reshape(len(flat), *shape) for piece, shape in zip(pieces, self._all, strict=True)
        ]
        return TextEmbedding(parts[0], parts[1], parts[2] if self.t5 else None)


class TextTable:
    """Embeddings of prompts on disk, found by their texts; needs no encoder."""

    def __init__(self, rows: KeptRows, shapes: TextShapes) -> None:
        """Take rows as they are."""
        self._rows, self._shapes = rows, shapes

    def read(self, prompts: Sequence[Prompt]) -> TextEmbedding:
        """Embeddings of prompts, float32, on the CPU.

        Raises:
            DataError: If a prompt was not among those that were encoded.
        """
        keys = [self.key(prompt) for prompt in prompts]
        if absent := set(self._rows.missing(keys)):
            unknown = next(p for p, key in zip(prompts, keys, strict=True) if key in absent)
            raise DataError(
                f"No embedding of {unknown.short!r} is kept in {self._rows.folder}. Expected a "
                "prompt that was encoded before the first step; name it there."
            )
        return self._shapes.part(self._rows.read(keys))

    def key(self, prompt: Prompt) -> str:
        """Key of a prompt: a hash of the texts that are read."""
        return key_of([prompt.short, prompt.long if self._shapes.t5 else None])


def kept_text(
    bundle: Bundle,
    prompts: Iterable[Prompt],
    cache: Path,
    *,
    t5_tokens: int | None,
    use_t5: bool = True,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> TextTable:
    """Embeddings of prompts, each text once: what is not kept yet is made and kept.

    Encoders run as they are, wherever they are, without dropout. The table does not need them.

    Args:
        bundle: Its text encoders and tokenizers.
        prompts: Prompts, with or without repeats.
        cache: Folder of all caches.
        t5_tokens: Length of T5's sequence; ``None`` for the number on the bundle's card.
        use_t5: Whether to read the long texts with the bundle's T5, if it has one.
        batch_size: Prompts at a time.
        progress: Shows how far it is.

    Raises:
        BundleError: If an embedding is not finite.
        DataError: If the cache cannot be read or written.
    """
    length = bundle.card.t5_null_tokens if t5_tokens is None else t5_tokens
    t5 = bundle.text_encoder_3 if use_t5 else None
    tokenizer_3 = bundle.tokenizer_3 if t5 is not None else None
    encoders: list[Any] = [*bundle.text_encoders, *([] if t5 is None else [t5])]
    tokenizers = [*bundle.tokenizers, *([] if tokenizer_3 is None else [tokenizer_3])]
    shapes = _shapes(bundle, None if t5 is None else length)
    identity = [network_digest(encoder) for encoder in encoders]
    identity += [tokenizer_digest(tokenizer) for tokenizer in tokenizers]
    name = key_of([identity, None if t5 is None else length])
    rows = KeptRows(cache / "text" / name, shapes.row)
    table = TextTable(rows, shapes)
    unique = {table.key(prompt): prompt for prompt in prompts}
    texts = list(unique.values())

    @torch.no_grad()
    def make(chosen: list[int]) -> np.ndarray:
        batch = [texts[i] for i in chosen]
        ids = tokenize(batch, bundle.tokenizers, tokenizer_3, t5_tokens=length)
        device = next(bundle.text_encoders[0].parameters()).device
        made = shapes.join(embed_text(ids.to(device), bundle.text_encoders, t5))
        _check(made, batch, bundle)
        return made

    with _evaluating(encoders):
        fill(
            rows, list(unique), make, batch_size=batch_size, progress=progress,
            label="encoding texts",
        )  # fmt: skip
    return table


def variant_prompts(
    record: TileRecord, masks: PromptMasks, seed: int, sample_index: int, num_variants: int
) -> list[Prompt]:
    """The prompts that a sample has where texts are encoded once: those of its first epochs.

    Args:
        record: Tile to describe.
        masks: Weights of the choices.
        seed: Seed of the run.
        sample_index: Place of the sample in the dataset.
        num_variants: Number of prompts; some may be equal.
    """
    return [
        draw_prompt(record, masks, seed=seed, sample_index=sample_index, epoch=variant)
        for variant in range(num_variants)
    ]


def _shapes(bundle: Bundle, t5_tokens: int | None) -> TextShapes:
    """Shapes that the encoders' settings state."""
    configs: list[Any] = [encoder.config for encoder in bundle.text_encoders]
    clip = int(bundle.tokenizers[0].model_max_length), sum(c.hidden_size for c in configs)
    t5 = None
    if bundle.text_encoder_3 is not None and t5_tokens is not None:
        t5 = t5_tokens, int(bundle.text_encoder_3.config.d_model)
    return TextShapes(clip, (sum(c.projection_dim for c in configs),), t5)


def _check(made: np.ndarray, batch: Sequence[Prompt], bundle: Bundle) -> None:
    """Refuse what is not finite, or would not be in half precision."""
    with np.errstate(invalid="ignore"):
        is_good = (np.abs(made) <= np.finfo(np.float16).max).all(1)  # NaN is not
    if not is_good.all():
        text = batch[int(np.argmin(is_good))].short
        raise BundleError(
            f"The text encoders of {bundle.name!r} give values for {text!r} that are NaN, infinite "
            "or too large for float16. Expected finite embeddings; load the encoders in float32 or "
            "bfloat16, or restore their weights."
        )


@contextmanager
def _evaluating(encoders: Sequence[nn.Module]) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = [encoder.training for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.eval()
        yield
    finally:
        for encoder, mode in zip(encoders, was_training, strict=True):
            encoder.train(mode)
