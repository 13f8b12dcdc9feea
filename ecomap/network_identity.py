"""What tells a network or a tokenizer from any other: a hash of all that decides its answers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

PASSED_OVER = frozenset({"transformers_version", "architectures", "dtype", "torch_dtype"})
"""Settings that say who wrote a network; so do those whose names begin with ``_``."""

OF_THE_LAST_CALL = frozenset({"truncation", "padding"})
"""Settings that a tokenizer remembers of its last call, and takes anew from each."""


class Network(Protocol):
    """What is used of the networks of diffusers and transformers."""

    @property
    def config(self) -> Any:
        """Settings: a mapping, or an object that gives one."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Weights and buffers."""


def network_digest(network: Network) -> str:
    """SHA-256 over kind, settings, and every weight with its name, type and shape.

    The weights are hashed as they are in memory, so that trained and merged ones count.
    """
    config = network.config
    settings = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    settings = {
        name: value
        for name, value in settings.items()
        if not name.startswith("_") and name not in PASSED_OVER
    }
    digest = hashlib.sha256(type(network).__name__.encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over vocabulary, rules and length of a tokenizer of transformers."""
    rules: dict[str, Any] = {"vocabulary": tokenizer.get_vocab()}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        known = json.loads(backend.to_str()).items()
        rules = {name: value for name, value in known if name not in OF_THE_LAST_CALL}
    content = [rules, tokenizer.special_tokens_map, tokenizer.padding_side]
    content += [type(tokenizer).__name__, int(tokenizer.model_max_length)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
