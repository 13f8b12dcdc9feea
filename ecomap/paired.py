"""Generated against real, image by image: errors of pixels, of structure and of activations.

A pair shows one place in one month. What lies under the mask changes no result. None of these
metrics is a goal by itself: a blurred mean of all months beats any sharp image in PSNR, and a
generated image lays down its own fields and clouds. Read them beside the rows of the baselines.

Longer than the budget because each metric carries its formula, range and paper.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ecomap import metrics
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.features import INPUT_MEAN, INPUT_STD, load_efficientnet_lite0
from ecomap.scores import Metric, Score
from ecomap.spectra import Mask, Pixels, check_pair, edge_f1, spectrum_error
from ecomap.tiles import Frame, Measured, group_masks

PEAK = 255
WINDOW_PX = 11
WINDOW_SIGMA_PX = 1.5
K1, K2 = 0.01, 0.03
"""Window and constants of SSIM: Wang et al. (2004), sec. III C."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM from the finest scale on: Wang et al. (2003), sec. 4."""
STAGES = (0, 2, 4, 10, 15)
"""Last blocks of EfficientNet-Lite0 at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""
MIN_PERCEPTUAL_PX = 32
"""Smaller images have nothing left at the last stage."""
PERCEPTUAL_PX = 2**17
"""Pixels of pairs that pass through a network together, at least one pair: on a CPU activations
that leave its cache take twice as long."""

LpipsNet = Literal["alex", "vgg", "squeeze"]

METRICS: dict[str, Metric] = {
    "psnr_db": Metric(
        label="PSNR",
        unit="dB",
        better="higher",
        formula="10 log10(255^2 / mean squared error over valid pixels); mean over pairs that are "
        "not equal",
        reference="Wang & Bovik (2009), Mean squared error: love it or leave it?, "
        "https://doi.org/10.1109/MSP.2008.930649",
    ),
    "ssim": Metric(
        label="SSIM",
        unit="",
        better="higher",
        formula="mean of the SSIM map (Gaussian window of 11 px, sigma 1.5, range 255) over pixels "
        "whose window is valid, and over red, green and blue",
        reference="Wang et al. (2004), Image Quality Assessment: From Error Visibility to "
        "Structural Similarity, https://doi.org/10.1109/TIP.2003.819861",
    ),
    "ms_ssim": Metric(
        label="MS-SSIM",
        unit="",
        better="higher",
        formula="product over halvings of the size of contrast and structure terms, SSIM at the "
        "last, with the published exponents; five scales from 176 px on, four from 88, three from "
        "44, two from 22, one below, exponents then divided by their sum",
        reference="Wang, Simoncelli & Bovik (2003), Multiscale structural similarity for image "
        "quality assessment, https://doi.org/10.1109/ACSSC.2003.1292216",
    ),
    "perceptual": Metric(
        label="perceptual_efficientnet_lite0",
        unit="",
        better="lower",
        formula="LPIPS form on five stages of EfficientNet-Lite0: mean over stages and valid cells "
        "of |u - v|^2, unit activations u and v; equal weights, not calibrated on people, no LPIPS "
        "value",
        reference="Zhang et al. (2018), The Unreasonable Effectiveness of Deep Features as a "
        "Perceptual Metric, https://arxiv.org/abs/1801.03924",
    ),
    "lpips": Metric(
        label="LPIPS",
        unit="",
        better="lower",
        formula="sum over layers of the weighted squared differences of unit activations, mean "
        "over valid cells; published weights, backbone of the user",
        reference="Zhang et al. (2018), The Unreasonable Effectiveness of Deep Features as a "
        "Perceptual Metric, https://arxiv.org/abs/1801.03924",
    ),
    "spectrum_error": Metric(
        label="spectrum error",
        unit="dB",
        better="lower",
        formula="root mean square over spatial frequencies of 10 log10 of the ratio of radially "
        "averaged power (1/12 added to both)",
        reference="Durall et al. (2020), Watch your Up-Convolution, "
        "https://arxiv.org/abs/2003.01826",
    ),
    "edge_f1": Metric(
        label="edge F1",
        unit="",
        better="higher",
        formula="harmonic mean of precision and recall of Sobel edges within 1 px; threshold: the "
        "reference's steepest tenth",
        reference="Martin, Fowlkes & Malik (2004), Learning to Detect Natural Image Boundaries, "
        "https://doi.org/10.1109/TPAMI.2004.1273918",
    ),
}
"""Metrics of pairs by their column; "lpips" exists only where the user has its weights."""

VALID_PAIR_FRAC = "valid_pair_frac"
"""Column with the share of pixels valid in both images, NaN where there is no pair."""


@dataclass(frozen=True)
class PerceptualNetwork:
    """Activations that a perceptual distance compares."""

    stages: Callable[[Tensor], Sequence[Tensor]]
    """Display values ``(N, 3, H, W)`` in float32 -> activations ``(N, C, h, w)``."""
    heads: Sequence[Callable[[Tensor], Tensor]] | None = None
    """Squared differences ``(N, C, h, w)`` -> ``(N, 1, h, w)``, one a stage, added up over stages.
    Without heads channels are added up and stages averaged."""


def psnr(reference: Pixels, generated: Pixels, valid: Mask | None = None) -> float:
    """Peak signal-to-noise ratio over valid pixels (`ecomap.metrics.psnr`).

    Args:
        reference: Display values ``(H, W, 3)``.
        generated: The same shape.
        valid: Pixels that count, ``(H, W)``; all by default.

    Returns:
        Decibels; infinite where all valid pixels are equal, NaN where none is valid.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If an image is not ``uint8``.
    """
    check_pair(reference, generated, valid)
    if valid is None:
        return metrics.psnr(reference, generated)
    return metrics.psnr(reference[valid], generated[valid]) if valid.any() else float("nan")


def ssim(reference: Pixels, generated: Pixels, valid: Mask | None = None) -> float:
    """Structural similarity with a Gaussian window, mean over pixels whose window is valid.

    Equal to torchmetrics' (``data_range=255``) to rounding where all pixels are valid: windows at
    the border see the image mirrored.

    Args:
        reference: Display values ``(H, W, 3)``, at least 6 px a side.
        generated: The same shape.
        valid: Pixels that may be read, ``(H, W)``; all by default.

    Returns:
        In [-1, 1], 1 for equal images; NaN where no window is valid.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If an image is not ``uint8``.
    """
    return _structure(reference, generated, valid, num_scales=1)


def ms_ssim(reference: Pixels, generated: Pixels, valid: Mask | None = None) -> float:
    """Structural similarity over several halvings of the size.

    As many of the five published scales as leave a window of 11 px at the coarsest (five from
    176 px on), their exponents divided by their sum; equal to torchmetrics' with those ``betas``
    where all pixels are valid. Negative terms count as 0. A pixel of a coarse scale is valid where
    all under it are.

    Args:
        reference: Display values ``(H, W, 3)``, at least 6 px a side.
        generated: The same shape.
        valid: Pixels that may be read, ``(H, W)``; all by default.

    Returns:
        In [0, 1], 1 for equal images; NaN where a scale has no valid window.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If an image is not ``uint8``.
    """
    value = _structure(reference, generated, valid, num_scales=_num_scales(reference.shape))
    return max(value, 0.0) if value == value else value


def perceptual(
    reference: Pixels,
    generated: Pixels,
    valid: Mask | None = None,
    *,
    network: PerceptualNetwork | None = None,
) -> NDArray[np.float64]:
    """Distance of activations in the form of LPIPS, image by image.

    At each cell of each stage activations are divided by their length over channels; the squared
    difference is averaged over cells, weighted by their share of valid pixels. Pixels that are not
    valid show the mean colour of the reference's valid ones in both images: around them images
    look more alike than they are.

    Args:
        reference: Display values ``(N, H, W, 3)``.
        generated: The same shape.
        valid: Pixels that may be read, ``(N, H, W)``; all by default.
        network: By default the stages of EfficientNet-Lite0 at the size of the images, equally
            weighted: each stage lies in [0, 4] and equals twice one minus the cosine.

    Returns:
        float64 ``(N,)``, >= 0, 0 for equal images; NaN where no pixel is valid, and with the
        default network everywhere for images under 32 px a side.

    Raises:
        ValueError: If the shapes differ.
        RequestError: If the default network is not installed.
    """
    if reference.shape != generated.shape or reference.ndim != 4:
        raise ValueError(
            f"Need two batches (N, H, W, 3) of one shape, got {reference.shape} and "
            f"{generated.shape}."
        )
    counts = np.ones(reference.shape[:3], bool) if valid is None else valid
    if counts.shape != reference.shape[:3]:
        raise ValueError(f"The mask has shape {counts.shape}, the images {reference.shape[:3]}.")
    if network is None and min(reference.shape[1:3]) < MIN_PERCEPTUAL_PX:
        return np.full(len(reference), np.nan)
    found = efficientnet_stages() if network is None else network
    step = max(1, PERCEPTUAL_PX // (reference.shape[1] * reference.shape[2]))
    pieces = [slice(start, start + step) for start in range(0, len(reference), step)]
    distances = [_perceptual(found, reference[i], generated[i], counts[i]) for i in pieces]
    return np.concatenate([np.empty(0), *distances])


@lru_cache(maxsize=1)
def efficientnet_stages() -> PerceptualNetwork:
    """EfficientNet-Lite0 up to five stages, without heads.

    Raises:
        RequestError: If the network or its weights are not installed.
    """
    network = load_efficientnet_lite0()

    def stages(images: Tensor) -> list[Tensor]:
        values = (images - INPUT_MEAN) / INPUT_STD
        values = network._swish(network._bn0(network._conv_stem(values)))
        found = []
        for index, block in enumerate(network._blocks):
            values = block(values)
            if index in STAGES:
                found.append(values)
        return found

    return PerceptualNetwork(stages)


@lru_cache(maxsize=2)
def lpips_from_weights(net: LpipsNet, path: Path) -> PerceptualNetwork:
    """LPIPS itself, for those who have the weights of its backbone.

    The heads ship with torchmetrics; torchvision's ImageNet weights of the backbone do not.

    Args:
        net: "alex", "vgg" (VGG16) or "squeeze" (SqueezeNet 1.1).
        path: State of torchvision's network, as its ``torch.save`` or safetensors file; parameters
            other than ``features.*`` are passed over. Pickles that hold more than tensors are
            refused.

    Raises:
        RequestError: If ``net`` is unknown, or the file is missing, unreadable, or of another
            network.
    """
    # Private, but the only home of the heads: the public function downloads the backbone.
    from torchmetrics.functional.image.lpips import _LPIPS

    if net not in get_args(LpipsNet):
        raise RequestError(f"LPIPS has no backbone {net!r}; choose one of {get_args(LpipsNet)}.")
    given = _read_state(path)
    with torch.random.fork_rng(devices=[]):  # it begins with random weights
        model = _LPIPS(net=net, pnet_rand=True)
    state = model.net.state_dict()
    names = {name: "features." + re.sub(r"^(slice\d+|slices\.\d+)\.", "", name) for name in state}
    wrong = [
        theirs
        for ours, theirs in names.items()
        if theirs not in given or given[theirs].shape != state[ours].shape
    ]
    if wrong:
        raise RequestError(
            f"{path} does not fit LPIPS with {net!r}: {wrong[0]} and {len(wrong) - 1} others are "
            "missing or have another shape. Give the file of torchvision's network of that name."
        )
    model.net.load_state_dict({ours: given[theirs] for ours, theirs in names.items()})

    def stages(images: Tensor) -> list[Tensor]:
        return list(model.net(model.scaling_layer(images / (PEAK / 2) - 1)))

    return PerceptualNetwork(stages, list(model.lins))


def pair_measures(
    reference: Sequence[Frame],
    generated: Sequence[Frame],
    *,
    lpips: PerceptualNetwork | None = None,
) -> pd.DataFrame:
    """All paired measures of frames of one size, over pixels valid in both.

    Args:
        reference: Real images.
        generated: Images of the same places and months, in the same order.
        lpips: Network of `lpips_from_weights`, for a column "lpips".

    Returns:
        One row a pair: `VALID_PAIR_FRAC` and the keys of `METRICS`.

    Raises:
        ValueError: If the frames differ in size.
    """
    pairs = list(zip(reference, generated, strict=True))
    valid = [real.valid & made.valid for real, made in pairs]
    rows = [
        {
            VALID_PAIR_FRAC: float(mask.mean()),
            "psnr_db": psnr(real.rgb, made.rgb, mask),
            "ssim": ssim(real.rgb, made.rgb, mask),
            "ms_ssim": ms_ssim(real.rgb, made.rgb, mask),
            "spectrum_error": spectrum_error(real.rgb, made.rgb, mask),
            "edge_f1": edge_f1(real.rgb, made.rgb, mask),
        }
        for (real, made), mask in zip(pairs, valid, strict=True)
    ]
    table = pd.DataFrame(rows)
    first, second = (np.stack([frame.rgb for frame in side]) for side in (reference, generated))
    table["perceptual"] = perceptual(first, second, np.stack(valid))
    if lpips is not None:
        table["lpips"] = perceptual(first, second, np.stack(valid), network=lpips)
    return table


def paired_scores(systems: Sequence[Measured], config: EvaluateConfig) -> list[Score]:
    """Means over pairs of the measures in `METRICS`, for all pairs and for each group.

    Equal images have an infinite PSNR: they are left out of its mean, and the flag counts them.
    Intervals draw blocks of places (`ecomap.tiles.BLOCK_DEG`); a tile whose place is not known is a
    block of its own, and the flag says so.

    Args:
        systems: Sets measured with a reference. A set or group without pairs gives no rows.
        config: Its groups, ``num_draws``, ``level`` and ``seed``.
    """
    scores: list[Score] = []
    for system in systems:
        table = system.table
        if VALID_PAIR_FRAC not in table:
            continue
        is_pair = np.asarray(table[VALID_PAIR_FRAC].notna())
        groups: dict[tuple[str, str], Mask] = {("all", "all"): np.ones(len(table), bool)}
        for kind in config.groups:
            groups |= {(kind, group): mask for group, mask in group_masks(table, kind).items()}
        parts = {group: table[mask & is_pair] for group, mask in groups.items()}
        scores += [
            _score(system.name, metric, part, group, config)
            for metric in METRICS
            if metric in table
            for group, part in parts.items()
            if len(part)
        ]
    return scores


def _score(
    system: str, metric: str, table: pd.DataFrame, group: tuple[str, str], config: EvaluateConfig
) -> Score:
    """Mean of one measure over the pairs of a table."""
    values = table[metric].to_numpy(np.float64)
    is_finite = np.isfinite(values)
    num_equal, num_undefined = int(np.isposinf(values).sum()), int(np.isnan(values).sum())
    notes = []
    if num_equal:
        notes.append(f"{num_equal} of {len(values)} pairs are equal, infinite, left out")
    if num_undefined:
        notes.append(f"{num_undefined} of {len(values)} pairs undefined, left out")
    values, table = values[is_finite], table[is_finite]
    known = np.asarray(table["block"].notna())
    if not known.all():
        notes.append(f"{(~known).sum()} images of unknown place are drawn as if independent")
    # A place cannot be named so: keys of unknown places must not fall together with blocks.
    own = "image " + table.index.to_series().astype(str)
    blocks = np.where(known, "block " + table["block"].astype(str), own).astype(str)
    interval = metrics.Interval(float("nan"), float("nan"))
    if len(values):
        interval = metrics.mean_interval(
            values, blocks, num=config.num_draws, seed=config.seed, level=config.level
        )
        if len(set(blocks)) == 1:
            notes.append("one block: no interval")
    return Score(
        system=system,
        section="paired",
        metric=metric,
        group_kind=group[0],
        group=group[1],
        value=float(values.mean()) if len(values) else None,
        low=interval.low,
        high=interval.high,
        n=len(values),
        num_blocks=len(set(blocks)),
        flag="; ".join(notes),
    )


def _num_scales(shape: tuple[int, ...]) -> int:
    """Scales whose shorter side holds a window, of the five that have an exponent; at least 1."""
    fitting = [s for s in range(len(SCALE_WEIGHTS)) if min(shape[:2]) >> s >= WINDOW_PX]
    return max(len(fitting), 1)


def _structure(
    reference: Pixels, generated: Pixels, valid: Mask | None, *, num_scales: int
) -> float:
    """Product of the terms of each scale to its exponent; the plain mean for one scale."""
    check_pair(reference, generated, valid)
    mask = np.ones(reference.shape[:2], bool) if valid is None else valid
    pair = np.stack([reference, generated]).astype(np.float64)
    terms = []
    for scale in range(num_scales):
        is_last = scale == num_scales - 1
        luminance, contrast = _similarity_maps(pair)
        values = (luminance * contrast if is_last else contrast).mean(-1)
        whole = np.asarray(ndimage.minimum_filter(mask, WINDOW_PX, mode="mirror"))
        if not is_last:  # as published: only windows inside the image
            inside = (slice(WINDOW_PX // 2, -(WINDOW_PX // 2)),) * 2
            values, whole = values[inside], whole[inside]
        if not whole.any():
            return float("nan")
        terms.append(float(values[whole].mean()))
        pair = _halve(pair).mean((2, 4))
        mask = np.asarray(_halve(mask[None, ..., None]).all((2, 4)))[0, ..., 0]
    if num_scales == 1:
        return terms[0]
    exponents = np.array(SCALE_WEIGHTS[:num_scales])
    return float(np.prod(np.clip(terms, 0, None) ** (exponents / exponents.sum())))


def _halve(values: NDArray[Any]) -> NDArray[Any]:
    """``(N, H, W, C)`` -> ``(N, H/2, 2, W/2, 2, C)``; an odd last row or column is left out."""
    num, height, width, channels = values.shape
    even = values[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(num, height // 2, 2, width // 2, 2, channels)


def _similarity_maps(
    pair: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Luminance term, and contrast and structure term, of ``(2, H, W, C)``, each ``(H, W, C)``.

    float64, as variances are small differences of squares.
    """
    a, b = pair
    moments = ndimage.gaussian_filter(
        np.stack([a, b, a * a, b * b, a * b]),
        WINDOW_SIGMA_PX,
        radius=WINDOW_PX // 2,
        mode="mirror",
        axes=(1, 2),
    )
    mean_a, mean_b, square_a, square_b, product = moments
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    variances = np.maximum(square_a - mean_a**2, 0) + np.maximum(square_b - mean_b**2, 0)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * (product - mean_a * mean_b) + c2) / (variances + c2)


@torch.inference_mode()
def _perceptual(
    network: PerceptualNetwork, reference: Pixels, generated: Pixels, valid: Mask
) -> NDArray[np.float64]:
    """`perceptual` of pairs that pass through the network together."""
    weights = torch.from_numpy(valid)[:, None].float()
    images = torch.from_numpy(np.concatenate([reference, generated])).permute(0, 3, 1, 2)
    first, second = images.float().chunk(2)
    total = weights.sum((2, 3), keepdim=True)
    fill = (first * weights).sum((2, 3), keepdim=True) / total.clamp(min=1)
    both = torch.cat([torch.where(weights > 0, values, fill) for values in (first, second)])
    parts = _stage_distances(network, both.contiguous(memory_format=torch.channels_last), weights)
    distance = parts.mean(0) if network.heads is None else parts.sum(0)
    return np.where(valid.any((1, 2)), distance.double().numpy(), np.nan)


def _stage_distances(network: PerceptualNetwork, both: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over cells at each stage, ``(stages, N)``; ``both`` holds pairs as halves."""
    parts = []
    for index, activations in enumerate(network.stages(both)):
        unit = activations / (activations.square().sum(1, keepdim=True) + 1e-8).sqrt()
        squared = (unit[: len(weights)] - unit[len(weights) :]).square()
        cells = squared.sum(1, True) if network.heads is None else network.heads[index](squared)
        height, width = activations.shape[-2:]
        shares = functional.adaptive_avg_pool2d(weights, (height, width))
        total = shares.sum((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
        parts.append((cells * shares).sum((1, 2, 3)) / total)
    return torch.stack(parts)


def _read_state(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name; nothing else is unpickled."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist. Give torchvision's weights file.") from None
    except Exception as error:  # each damaged or foreign format has its own
        raise RequestError(
            f"{path} is not a file of tensors ({type(error).__name__}). Give torchvision's weights "
            "as .pth or .safetensors."
        ) from None
    if not isinstance(state, dict):
        raise RequestError(f"{path} holds a {type(state).__name__}. Expected tensors by name.")
    return state
