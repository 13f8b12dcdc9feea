"""Feature spaces of networks whose weights the user has: InceptionV3, transformers, OpenCLIP.

Weights are read as tensors only, from files that are there; nothing is downloaded, and a folder
that wants to run code of its own is refused.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ecomap.errors import RequestError
from ecomap.feature_space import Extracted, Features, FeatureSpace, Images
from ecomap.versions import fingerprint

INCEPTION_OUTPUTS = ("2048", "logits_unbiased")
"""What torch-fidelity's network is asked for: pooled features, and logits without their bias, as
its Inception Score and torchmetrics' take them."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
"""One of them holds a tokenizer's vocabulary; without any, transformers makes one up."""

_LOAD_FAULTS = (OSError, ValueError, TypeError, RuntimeError, LookupError, SafetensorError)


def open_inception(file: str) -> FeatureSpace:
    """InceptionV3 as most published Fréchet distances and Inception Scores use it.

    Needs the package torch-fidelity, and the file of weights that it and torchmetrics download
    (``weights-inception-2015-12-05-6726825d.pth``). Images are resized to 299 x 299 px as
    TensorFlow 1 did (bilinear, not antialiased), for such numbers are compared with others.

    Args:
        file: State dict of torch-fidelity's ``FeatureExtractorInceptionV3``, safetensors or .pth.

    Returns:
        2048 features and probabilities of 1008 classes.

    Raises:
        RequestError: If the package is not installed, or the file is missing or no such weights.

    References:
        Szegedy et al. (2016), https://arxiv.org/abs/1512.00567; Heusel et al. (2017),
        https://arxiv.org/abs/1706.08500; Parmar et al. (2022), On Aliased Resizing,
        https://arxiv.org/abs/2104.11222
    """
    path = _existing(file, "inception")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise _not_installed("inception", "torch-fidelity") from None
    try:
        # Its constructor unpickles whatever file it is given; it is given tensors that we read.
        buffer = io.BytesIO()
        torch.save(read_tensors(path), buffer)
        buffer.seek(0)
        network = FeatureExtractorInceptionV3(
            "inception", list(INCEPTION_OUTPUTS), feature_extractor_weights_path=buffer
        )
    except _LOAD_FAULTS as error:
        raise _no_weights(path, "inception", error) from None

    @torch.inference_mode()
    def extract(images: Images) -> Extracted:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        features, logits = network(pixels)
        return Extracted(np.asarray(features.numpy()), np.asarray(logits.softmax(1).numpy()))

    return FeatureSpace(
        name=f"inception={path.name}",
        width=2048,
        description="InceptionV3, ImageNet weights of 2015 by torch-fidelity, pooled features; "
        "input resized to 299 x 299 px (bilinear as TensorFlow 1, not antialiased)",
        extract=extract,
        identity=fingerprint([path]),
    )


def open_transformers(folder: str) -> FeatureSpace:
    """An image model of the package transformers, with the preprocessing of its own folder.

    Of models with texts (CLIP, SigLIP) the image embedding; of others the pooled output where it
    was trained, else the first token (CLS) of the last layer.

    Args:
        folder: Model as ``save_pretrained`` writes it: config, preprocessor and safetensors; for
            texts also the tokenizer.

    Raises:
        RequestError: If the folder is missing or holds no such model, or weights are missing.

    References:
        Radford et al. (2021), CLIP, https://arxiv.org/abs/2103.00020; Oquab et al. (2023), DINOv2,
        https://arxiv.org/abs/2304.07193; Siméoni et al. (2025), DINOv3,
        https://arxiv.org/abs/2508.10104
    """
    path = _existing(folder, "transformers")
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoImageProcessor.from_pretrained(path, **local)
        model, loaded = AutoModel.from_pretrained(
            path, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    except (*_LOAD_FAULTS, ImportError) as error:
        raise _no_weights(path, "transformers", error) from None
    missing = sorted(loaded["missing_keys"])
    untrained_pooler = any("pooler." in key for key in missing)
    if absent := [key for key in missing if "pooler." not in key]:
        raise RequestError(
            f"{path} lacks {len(absent)} weights of its model, such as {absent[0]}; they would be "
            "random. Restore the file."
        )
    model.eval().requires_grad_(False)
    has_texts = hasattr(model, "get_text_features")
    embed = model.get_image_features if has_texts else model
    output_words = "first token of the last layer" if untrained_pooler else "pooled output"

    @torch.inference_mode()
    def extract(images: Images) -> Extracted:
        inputs = processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last"
        )
        output = embed(pixel_values=inputs["pixel_values"])
        return Extracted(_as_features(_pooled(output, use_first=untrained_pooler)))

    return FeatureSpace(
        name=f"transformers={path.name}",
        width=_width_of(extract),
        description=f"{type(model).__name__} of {path.name}: "
        + ("image embedding" if has_texts else output_words)
        + "; input prepared as its own folder says",
        extract=extract,
        identity=fingerprint(sorted([*path.glob("*.json"), *path.glob("*.safetensors")])),
        embed_texts=_transformers_texts(model, path) if has_texts else None,
    )


def _transformers_texts(model: Any, path: Path) -> Callable[[Sequence[str]], Features]:
    """Text side of a model; its tokenizer is read when the first text comes."""

    @torch.inference_mode()
    def embed_texts(texts: Sequence[str]) -> Features:
        from transformers import AutoTokenizer

        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            raise RequestError(
                f"{path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}. Texts need the "
                "files of the model's own tokenizer beside it."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except _LOAD_FAULTS as error:
            raise _no_weights(path, "transformers", error) from None
        length = model.config.text_config.max_position_embeddings
        tokens = tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        return _as_features(_pooled(model.get_text_features(**tokens), use_first=False))

    return embed_texts


def open_open_clip(text: str) -> FeatureSpace:
    """A CLIP of the package open-clip-torch with weights from a file, such as RemoteCLIP.

    Args:
        text: ``MODEL:FILE``: name of an architecture that ships with the package, and its weights
            (safetensors, or a .pt that holds nothing but tensors).

    Raises:
        RequestError: If the package is not installed, the architecture is unknown or would download
            a part, or the file is missing or does not fit.

    References:
        Cherti et al. (2023), https://arxiv.org/abs/2212.07143; Liu et al. (2024), RemoteCLIP,
        https://arxiv.org/abs/2306.11029
    """
    architecture, colon, file = text.partition(":")
    if not colon or not architecture:
        raise RequestError(f"open_clip={text} must be open_clip=MODEL:FILE, as in ViT-B-32:FILE.")
    path = _existing(file, "open_clip")
    try:
        import open_clip
    except ImportError:
        raise _not_installed("open_clip", "open-clip-torch") from None
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise RequestError(
            f"OpenCLIP knows no architecture {architecture!r}; open_clip.list_models() lists them."
        )
    if any(key.startswith("hf_") for key in config["text_cfg"]):
        raise RequestError(
            f"{architecture} takes its tokenizer or text tower from a model hub; nothing is "
            "downloaded. Use it in the layout of transformers: transformers=FOLDER."
        )
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            architecture, pretrained=str(path), weights_only=True
        )
    except Exception as error:  # also AssertionError, and unpickling errors without a public name
        raise _no_weights(path, "open_clip", error) from None
    model.eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(architecture)

    @torch.inference_mode()
    def extract(images: Images) -> Extracted:
        pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        return Extracted(_as_features(model.encode_image(pixels)))

    @torch.inference_mode()
    def embed_texts(texts: Sequence[str]) -> Features:
        return _as_features(model.encode_text(tokenizer(list(texts))))

    return FeatureSpace(
        name=f"open_clip={architecture}:{path.name}",
        width=_width_of(extract),
        description=f"OpenCLIP {architecture}, weights {path.name}: image embedding; input "
        "prepared as the package does for this architecture",
        extract=extract,
        identity=fingerprint([path]),
        embed_texts=embed_texts,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """State dict of a safetensors file, or of a .pth file by torch's reader of plain tensors.

    Raises:
        ValueError: If it is neither, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both packages raise types without a public name
        raise ValueError(f"no file of plain tensors: {_one_line(error)}") from None
    return tensors


def _pooled(output: Any, *, use_first: bool) -> Tensor:
    """Pooled output ``(N, D)`` of a model, or its first token."""
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if pooled is None or use_first:
        hidden: Tensor = output.last_hidden_state
        return hidden[:, 0] if hidden.ndim == 3 else hidden.flatten(2).mean(2)
    return pooled.flatten(1)


def _as_features(values: Tensor) -> Features:
    return np.asarray(values.float().cpu().numpy())


def _width_of(extract: Callable[[Images], Extracted]) -> int:
    """Number of features, from one black image."""
    return int(extract(np.zeros((1, 32, 32, 3), np.uint8)).features.shape[1])


def _existing(text: str, kind: str) -> Path:
    """The path of weights, which must be there."""
    path = Path(text).expanduser()
    if not path.exists():
        raise RequestError(
            f"{path} does not exist. The feature space {kind!r} needs weights of yours; nothing is "
            "downloaded."
        )
    return path


def _not_installed(kind: str, package: str) -> RequestError:
    return RequestError(
        f"The feature space {kind!r} needs the package {package}. Install it with: pip install "
        f"{package}"
    )


def _no_weights(path: Path, kind: str, error: Exception) -> RequestError:
    return RequestError(
        f"{path} cannot be read as weights of the feature space {kind!r}: {_one_line(error)}. "
        "Expected tensors of that very network, with the files that its package wrote beside them."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
