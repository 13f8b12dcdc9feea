"""Structure of an image as controlnet-aux's detectors see it: edges, lines, depth, normals.

Canny and the standard line art need no weights; the others read them from a folder that the user
has. Nothing is ever downloaded. Detectors work at multiples of 64 px; what is returned has the
image's own size.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecomap.errors import ConfigError

SIZE_STEP_PX = 64
"""Detectors round sizes to multiples of it."""

Look = tuple[str, Callable[[np.ndarray], np.ndarray]]
"""Name that changes whenever the result would, and a function of uint8 images ``(H, W, 3)``."""


@dataclass(frozen=True)
class _Detector:
    """How a detector of controlnet-aux is opened and called."""

    class_name: str
    weights: str | None = None
    """File name of its published weights; ``None`` where it has none."""
    sizes: tuple[str, ...] = ("detect_resolution", "image_resolution")
    """Arguments that take a size: not every detector has both."""
    settings: dict[str, float] = field(default_factory=dict)


DETECTORS = {
    "canny": _Detector("CannyDetector", settings={"low_threshold": 100, "high_threshold": 200}),
    "lineart_standard": _Detector(
        "LineartStandardDetector",
        sizes=("detect_resolution",),
        # Spelt so in controlnet-aux.
        settings={"guassian_sigma": 6.0, "intensity_threshold": 8},
    ),
    "hed": _Detector("HEDdetector", "ControlNetHED.pth"),
    "pidinet": _Detector("PidiNetDetector", "table5_pidinet.pth"),
    "teed": _Detector("TEEDdetector", "5_model.pth", sizes=("detect_resolution",)),
    "mlsd": _Detector("MLSDdetector", "mlsd_large_512_fp32.pth"),
    "midas": _Detector("MidasDetector", "dpt_hybrid-midas-501f0c75.pt"),
    "normalbae": _Detector("NormalBaeDetector", "scannet.pt"),
}
"""Detectors by their names in configs; their settings are controlnet-aux's own defaults."""


def open_detector(name: str, weights: Path | None = None) -> Look:
    """Open a detector.

    Args:
        name: One of `DETECTORS`.
        weights: Folder of its weights, for detectors that have any.

    Returns:
        Name of the look, with settings and a hash of the weights, and the detector as a function
        from uint8 images ``(H, W, 3)`` to uint8 images of the same shape.

    Raises:
        ConfigError: If the name is unknown, or weights are missing, damaged, or given in vain.
    """
    if name not in DETECTORS:
        raise ConfigError(f"Detector {name!r} is unknown. Choose one of {', '.join(DETECTORS)}.")
    detector = DETECTORS[name]
    label = "_".join([name, *(f"{value:g}" for value in detector.settings.values())])
    path = _weights_path(name, detector, weights)
    if path is not None:
        with path.open("rb") as file:
            label += "_" + hashlib.file_digest(file, "sha256").hexdigest()[:12]
    network = _open(detector, path)

    def look(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        side = max(1, round(min(height, width) / SIZE_STEP_PX)) * SIZE_STEP_PX
        sizes = dict.fromkeys(detector.sizes, side)
        with warnings.catch_warnings():
            # An image without any line makes the standard line art take the median of nothing.
            warnings.simplefilter("ignore", RuntimeWarning)
            seen = network(
                np.ascontiguousarray(image), output_type="np", **sizes, **detector.settings
            )
        if seen.shape[:2] != (height, width):
            picture = Image.fromarray(seen).resize((width, height), Image.Resampling.BILINEAR)
            seen = np.asarray(picture)
        return np.ascontiguousarray(seen)

    return label, look


def _weights_path(name: str, detector: _Detector, folder: Path | None) -> Path | None:
    """File of a detector's weights."""
    if detector.weights is None:
        return None
    if folder is None or not (folder / detector.weights).is_file():
        where = "no folder was given" if folder is None else f"{folder} does not hold it"
        raise ConfigError(
            f"Detector {name!r} needs its weights {detector.weights}, and {where}. Put the file "
            "into a folder and name that as detector_weights, or choose canny or lineart_standard, "
            "which need none."
        )
    return folder / detector.weights


def _open(detector: _Detector, path: Path | None) -> Callable[..., np.ndarray]:
    """A detector, its network on the CPU."""
    with warnings.catch_warnings():
        # The package imports all its networks, some of them in deprecated ways.
        warnings.simplefilter("ignore")
        import controlnet_aux

        kind: Any = getattr(controlnet_aux, detector.class_name)
        if path is None:
            opened: Callable[..., np.ndarray] = kind()
            return opened
        try:
            opened = kind.from_pretrained(str(path.parent), filename=path.name)
        except Exception as error:  # each network, and torch, raises types of its own
            raise ConfigError(
                f"{path} holds no weights of {detector.class_name}: {str(error).splitlines()[0]} "
                "Expected the file that its authors published."
            ) from None
    return opened
