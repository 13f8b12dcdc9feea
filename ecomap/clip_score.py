"""CLIP score: how well images fit their captions, in a space that images and texts share.

A mean over images, whatever the batches. EcoMapper's released code sums the means of batches of 100
and divides by the number of images: right for full batches only, and more than a cosine can be for
the classes with few images (its Table 7 has 1.49 and 1.87). Its captions for this score left the
climate out; here "short" and "long" tell it, and "without climate" does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecomap.adherence import (
    blocks_of,
    join_flags,
    mean_score,
    null_score,
    shuffled_means,
    two_sided_p,
)
from ecomap.evaluate_config import EvaluateConfig
from ecomap.prompt import PromptChoice, write_prompt
from ecomap.scores import Metric, Score
from ecomap.tiles import Measured, ScoredTile

METRICS: dict[str, Metric] = {
    "clip_score": Metric(
        label="CLIP score",
        unit="",
        better="higher",
        formula="mean of 100 max(cos(image, caption), 0), 0 to 100",
        reference="Hessel et al. (2021), CLIPScore, https://arxiv.org/abs/2104.08718",
    )
}

SHUFFLED = "shuffled captions"
"""Ends the detail of scores under the null: captions of other tiles."""

TEXT_BATCH = 64
"""Captions embedded at a time."""

EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]


def clip_score(image_embeddings: ArrayLike, text_embeddings: ArrayLike) -> NDArray[np.float64]:
    """CLIP score of each image with its own text: ``100 max(cos, 0)``.

    The scale is torchmetrics'; Hessel et al. multiply by 2.5 instead of 100. Their maximum is
    taken here image by image as they do; torchmetrics takes it of the mean.

    Args:
        image_embeddings: ``(N, D)`` of any length.
        text_embeddings: ``(N, D)``, row by row.

    Returns:
        ``(N,)`` from 0 to 100; NaN where an embedding is zero.

    Raises:
        ValueError: If the shapes differ or are not two-dimensional.

    References:
        Hessel et al. (2021), CLIPScore: A Reference-free Evaluation Metric for Image Captioning,
        https://arxiv.org/abs/2104.08718
    """
    images = np.asarray(image_embeddings, np.float64)
    texts = np.asarray(text_embeddings, np.float64)
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(
            f"Need two matrices of one shape (N, D), got {images.shape} and {texts.shape}."
        )
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    cosines = np.full(len(images), np.nan)
    np.divide((images * texts).sum(1), lengths, out=cosines, where=lengths > 0)
    return np.asarray(100 * np.clip(cosines, 0, 1))


def captions_of(tile: ScoredTile) -> dict[str, str]:
    """Texts of a tile by their kind; empty where neither caption nor record is known.

    The tile's own climate is told, which a changed-climate image does not share with its record.

    Returns:
        ``caption`` where the tile has one; else ``short``, ``long`` and ``without climate`` by
        `ecomap.prompt.write_prompt`.
    """
    if tile.caption is not None:
        return {"caption": tile.caption}
    if tile.record is None:
        return {}
    record = tile.record.model_copy(update=dict(tile.climate))
    told = write_prompt(record, PromptChoice())
    spatial = write_prompt(record, PromptChoice(climate="none"))
    return {"short": told.short, "long": told.long, "without climate": spatial.short}


def clip_scores(
    systems: Sequence[Measured],
    tiles: Mapping[str, Sequence[ScoredTile]],
    embed_texts: EmbedTexts,
    config: EvaluateConfig,
) -> list[Score]:
    """CLIP scores of sets whose image embeddings were measured in the space ``config.clip``.

    Args:
        systems: Sets of images, the real ones too if they are to be scored.
        tiles: Tiles of each set by its name, for their captions; a set without any says so in its
            score.
        embed_texts: Texts -> ``(N, D)``: `ecomap.feature_space.FeatureSpace.embed_texts` of the
            space ``config.clip``.
        config: Space, draws, permutations, seed and level. Without a space there are no scores.

    Returns:
        For each set and each kind of caption that it has: the mean with interval and p value, and
        the same with `SHUFFLED` captions.
    """
    if config.clip is None:
        return []
    scores = []
    for measured in systems:
        base = Score(
            system=measured.name, section="adherence", metric="clip_score", value=None, n=0
        )
        if config.clip not in measured.features:
            scores.append(replace(base, flag=f"images were not measured in {config.clip}"))
            continue
        by_key = {tile.key: captions_of(tile) for tile in tiles.get(measured.name, ())}
        captions = [by_key.get(key, {}) for key in measured.table.index]
        kinds = list(dict.fromkeys(kind for found in captions for kind in found))
        if not kinds:
            scores.append(replace(base, flag="no tile has a caption, or a record to write one of"))
        for kind in kinds:
            texts = [found.get(kind) for found in captions]
            own = replace(base, detail=kind)
            scores += _scores_of_kind(own, measured, texts, config.clip, embed_texts, config)
    return scores


def _scores_of_kind(
    base: Score,
    measured: Measured,
    texts: Sequence[str | None],
    space: str,
    embed_texts: EmbedTexts,
    config: EvaluateConfig,
) -> list[Score]:
    """Score and null of one kind of caption, over the images that have it."""
    rows = np.array([index for index, text in enumerate(texts) if text is not None], np.intp)
    images = np.asarray(measured.features[space])[rows].astype(np.float64)
    embedded = embed_once([text for text in texts if text is not None], embed_texts)
    values = clip_score(images, embedded)
    defined = ~np.isnan(values)
    if not defined.any():
        return [replace(base, flag="all embeddings are zero")]
    rows, images, embedded = rows[defined], images[defined], embedded[defined]
    left_out = len(texts) - len(rows)
    flag = f"{left_out} images without a caption or embedding left out" if left_out else ""
    table = measured.table.iloc[rows]
    null = shuffled_means(table, lambda donors: clip_score(images, embedded[donors]), config)
    main = mean_score(base, values[defined], blocks_of(table), config)
    return [
        replace(main, flag=join_flags(main.flag, flag), p_value=two_sided_p(main.value, null)),
        null_score(base, null, len(rows), config, detail=f"{base.detail}, {SHUFFLED}"),
    ]


def embed_once(texts: Sequence[str], embed_texts: EmbedTexts) -> NDArray[np.float64]:
    """Embeddings ``(N, D)`` of texts, each distinct one embedded once."""
    distinct = list(dict.fromkeys(texts))
    parts = [
        np.asarray(embed_texts(distinct[start : start + TEXT_BATCH]), np.float64)
        for start in range(0, len(distinct), TEXT_BATCH)
    ]
    place = {text: index for index, text in enumerate(distinct)}
    return np.asarray(np.concatenate(parts)[[place[text] for text in texts]])
