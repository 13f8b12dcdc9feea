"""Scores of generated images against the real ones, with baselines and floors beside them."""

from collections.abc import Callable, Mapping

import numpy as np

from ecomap import metrics
from ecomap.features import Features, extract_features
from ecomap.heldout_data import (
    Readings,
    Report,
    Sample,
    Settings,
    Values,
    class_month_means,
    read_frames,
    read_indices,
)
from ecomap.image_store import Images
from ecomap.places import block_of, nearest_analogues

KERNEL_SUBSET = 100
"""Images to a draw of the kernel distance; all of them where there are fewer."""


def score(
    sample: Sample,
    settings: Settings,
    made: Mapping[str, Images],
    reconstruct: Callable[[Images], Images],
) -> Report:
    """Conditions, baselines and floors against the real images."""
    truth = _Truth(sample, settings)
    analogues = nearest_analogues(sample.chosen, sample.places["train"])
    retrieved = [place[month] for place in analogues for month in settings.months]
    training = [place[m] for place in sample.places["train"] for m in settings.months]
    means, missing = class_month_means(sample.records, training, sample.real(training))
    return {
        "conditions": {name: truth.score(images) for name, images in made.items()},
        "baselines": {
            "nearest_analogue": truth.score(read_frames(sample.reader, retrieved)),
            "class_month_mean": truth.score_readings(means) | {"num_without_class": missing},
        },
        "floors": {
            "autoencoder": truth.score(reconstruct(sample.images)),
            "real_vs_real": truth.score_real(),
        },
    }


class _Truth:
    """The real images, and what others score against them."""

    def __init__(self, sample: Sample, settings: Settings) -> None:
        self.sample, self.settings = sample, settings
        self.readings = sample.real(sample.records)
        self.places = [record.place_id for record in sample.records]
        self.blocks = [block_of(record) for record in sample.records]
        self.features = {name: extract_features(sample.images, name) for name in settings.spaces}

    def score(self, images: Images) -> Report:
        """Indices, distances and PSNR of as many images as are real."""
        readings = read_indices(images)
        values = [metrics.psnr(a, b) for a, b in zip(self.sample.images, images, strict=True)]
        return {
            "num_images": len(images),
            "num_without_land": readings.num_without_land,
            **self.score_readings(readings),
            "psnr_db": float(np.mean(values)),
            "distances": {
                name: _distances(real, extract_features(images, name), self.settings.seed)
                for name, real in self.features.items()
            },
        }

    def score_readings(self, readings: Readings) -> Report:
        """Errors and correlations of indices, over places and months and within places."""
        report: Report = {}
        for name in ("greenness", "snow"):
            real, made = getattr(self.readings, name), getattr(readings, name)
            pairs = np.stack([real, made], axis=1)
            anomalies = np.stack(
                [metrics.group_anomaly(values, self.places) for values in (real, made)], axis=1
            )
            report[name] = {
                "rmse": self._estimate(metrics.rmse, pairs),
                "mean_absolute_error": self._estimate(metrics.mean_absolute_error, pairs),
                "pearson": self._estimate(metrics.pearson, pairs),
                "spearman": self._estimate(metrics.spearman, pairs),
                "anomaly_pearson": self._estimate(metrics.pearson, anomalies),
                "anomaly_spearman": self._estimate(metrics.spearman, anomalies),
            }
        return report

    def _estimate(self, statistic: Callable[[Values, Values], float], pairs: Values) -> Report:
        """A statistic of two columns with its 95 % interval over blocks."""
        low, high = metrics.bootstrap_interval(
            pairs,
            self.blocks,
            lambda drawn: statistic(drawn[:, 0], drawn[:, 1]),
            num=self.settings.num_draws,
            seed=self.settings.seed,
        )
        return {"value": statistic(pairs[:, 0], pairs[:, 1]), "low": low, "high": high}

    def score_real(self) -> Report:
        """Distances between real images of different places, of equal number on both sides."""
        num_months = len(self.settings.months)
        if self.sample.others:
            records = [p[m] for p in self.sample.others for m in self.settings.months]
            frames = read_frames(self.sample.reader, records)
            sides = {s: (f, extract_features(frames, s)) for s, f in self.features.items()}
        else:
            turn = np.arange(len(self.sample.records)) // num_months
            num = len(self.sample.chosen) // 2
            even, odd = (turn % 2 == 0) & (turn < 2 * num), turn % 2 == 1
            sides = {s: (f[even], f[odd & (turn < 2 * num)]) for s, f in self.features.items()}
        return {
            "num_images": len(next(iter(sides.values()))[0]) if sides else 0,
            "distances": {s: _distances(a, b, self.settings.seed) for s, (a, b) in sides.items()},
        }


def _distances(real: Features, made: Features, seed: int) -> Report:
    """Both distances between two equally large sets of features."""
    size = min(KERNEL_SUBSET, len(real))
    kernel = metrics.kernel_distance(real, made, subset_size=size, seed=seed)
    return {
        "frechet": metrics.frechet_distance(real, made),
        "kernel": {"mean": kernel.mean, "std": kernel.std, "subset_size": size},
    }
