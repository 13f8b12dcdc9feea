"""A made-up evaluation: tables with a known truth, and scores as the modules that measure give."""

import numpy as np
import pandas as pd

from ecomap.claims import claims
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_report import Input, Report, Space, System
from ecomap.published import published_scores
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.tiles import ScoredTile, tile_table

CONFIG = EvaluateConfig(num_draws=200, equal_n=30)
COVERS = (LandCover.GRASSLANDS, LandCover.BARREN, LandCover.MIXED_FORESTS)
PLACES = [(lat, lon) for lat in (-33.0, 12.0, 47.0) for lon in (-95.0, 5.0, 27.0, 110.0)]
"""Twelve places, each in a block of its own."""

NOISE = {
    "generated": 0.02,
    "persistence": 0.05,
    "class_month_mean": 0.04,
    "climate_analogue": 0.02,
    "shuffled_climate": 0.12,
    "autoencoder": 0.002,
}
"""Standard deviation of the greenness error of each system."""

KINDS = {
    "generated": "generated",
    "persistence": "baseline",
    "class_month_mean": "baseline",
    "climate_analogue": "baseline",
    "shuffled_climate": "null",
    "autoencoder": "floor",
}

METRICS = {
    "frechet_distance": Metric(
        label="Fréchet distance", unit="", better="lower",
        formula="|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½)",
        reference="Heusel et al. (2017), https://arxiv.org/abs/1706.08500",
    ),
    "coverage": Metric(
        label="Coverage", unit="", better="higher", formula="share of real images near a made one",
        reference="Naeem et al. (2020), https://arxiv.org/abs/2002.09797",
    ),
    "psnr_db": Metric(
        label="PSNR", unit="dB", better="higher", formula="10 log10(255² / MSE)", reference="none",
    ),
    "index_rmse": Metric(
        label="RMSE", unit="", better="lower", formula="sqrt(mean(d²))", reference="none",
    ),
    "climate_slope": Metric(
        label="Slope", unit="per unit", better="none", formula="cov / var", reference="none",
    ),
    "slope_ratio": Metric(
        label="Slope ratio", unit="", better="one", formula="b1 / b2", reference="none",
    ),
    "unused": Metric(label="Unused", unit="", better="none", formula="none", reference="none"),
}  # fmt: skip


def make_tables(*, seed: int = 0, noise: dict[str, float] = NOISE) -> dict[str, pd.DataFrame]:
    """Real greenness follows temperature and season; each system adds its own error."""
    rng = np.random.default_rng(seed)
    tiles = []
    for number, (lat, lon) in enumerate(PLACES):
        for month in range(1, 13):
            summer = -np.cos(2 * np.pi * (month - 1) / 12) * (1 if lat > 0 else -1)
            climate = {
                "temperature_c": 12 - abs(lat) / 4 + 10 * summer + rng.normal(0, 1.5),
                "precipitation_mm_day": 2.0 + 1.5 * summer + rng.gamma(2.0, 0.4),
            }
            tiles.append(
                ScoredTile(
                    key=f"p{number}_{month:02d}", place=f"p{number}", month=f"2004-{month:02d}",
                    lat=lat, lon=lon, land_cover=COVERS[number % 3], climate=climate,
                )
            )  # fmt: skip
    table = tile_table(tiles)
    gcc = 0.36 + 0.004 * table["temperature_c"] + rng.normal(0, 0.01, len(table))
    snow = (0.5 - table["temperature_c"] / 20).clip(0, 1)
    tables = {OBSERVED: table.assign(gcc=gcc, snow_frac=snow, ndvi=np.nan)}
    for name, spread in noise.items():
        error = rng.normal(0, spread, len(table))
        tables[name] = table.assign(
            gcc=gcc + error, snow_frac=(snow + 3 * error).clip(0, 1), ndvi=np.nan,
            psnr_db=20 - 50 * np.abs(error), perceptual=0.4 + np.abs(error),
        )  # fmt: skip
    return tables


def make_score(system="generated", section="vegetation", metric="index_rmse", **fields) -> Score:
    given = {"value": 0.1, "n": 144, "num_blocks": 12, "detail": "gcc"} | fields
    return Score(system=system, section=section, metric=metric, **given)


def make_scores() -> list[Score]:
    """Scores of all sections, over all images and by land cover, one of them refused."""
    scores = []
    distances = {"generated": 140.0, "climate_analogue": 60.0, "shuffled_climate": 144.0,
                 "autoencoder": 63.0, "real_vs_real": 90.0}  # fmt: skip
    for space in ("eo", "colour_texture"):
        for system, value in distances.items():
            row = {"section": "realism", "detail": space, "system": system}
            width = {"low": value - 8, "high": value + 8}
            scores.append(make_score(metric="frechet_distance", value=value, **row, **width))
            scores.append(make_score(metric="coverage", value=0.5, low=0.4, high=0.6, **row))
            for step, cover in enumerate(COVERS):
                group = {"group_kind": "land_cover", "group": cover.label}
                few = {"value": None, "n": 7, "flag": "refused: 7 images, 30 needed"}
                some = {"value": value + 10 * step, "low": value - 9, "high": value + 30, "n": 30}
                known = few if cover == LandCover.BARREN else some
                scores.append(make_score(metric="frechet_distance", **row, **group, **known))
    for system, spread in NOISE.items():
        scores.append(make_score(system, value=spread, low=spread - 0.002, high=spread + 0.002))
        scores.append(make_score(system, detail="snow_frac", value=3 * spread))
        scores.append(make_score(system, detail="vari", value=0.99))
        scores += [
            make_score(system, "paired", "psnr_db", detail="", value=20 - 50 * spread)
        ]  # fmt: skip
        for step, cover in enumerate(COVERS):
            group = {"group_kind": "land_cover", "group": cover.label, "n": 48}
            low, high = spread, spread * (1.4 + step)
            scores.append(
                make_score(system, value=spread * (1 + step), low=low, high=high, **group)
            )
    anomaly = "anomaly_pearson_given_place_and_month"
    scores.append(make_score(metric=anomaly, value=0.4, low=0.25, high=0.5, p_value=0.002))
    scores.append(make_score("shuffled_climate", metric=anomaly, value=0.0, low=-0.1, high=0.1))
    for control in ("raw", "within place"):
        for lag in (0, 1):
            detail = f"gcc ~ temperature_c lag {lag} | {control}"
            slope = {"metric": "climate_slope", "detail": detail}
            scores.append(make_score(OBSERVED, **slope, value=0.004, low=0.003, high=0.005))
            scores.append(make_score(**slope, value=0.0038, low=0.003, high=0.0045))
    detail = "gcc ~ temperature_c lag 0 | within place"
    scores.append(make_score(metric="slope_ratio", detail=detail, value=0.95, low=0.8, high=1.1))
    scores.append(make_score(section="response", metric="response_slope", detail="gcc", value=0.02))
    scores.append(
        make_score(section="forecast", metric="forecast_outperformance", value=None, n=12,
                   flag="12 months of one year: climatology is unknown")
    )  # fmt: skip
    return scores


def make_report(
    tables: dict[str, pd.DataFrame] | None = None, scores: list[Score] | None = None, **fields
) -> Report:
    tables = make_tables() if tables is None else tables
    scores = make_scores() if scores is None else scores
    given = {
        "command": "ecomap evaluate --reference real --generated made --output runs/evaluate",
        "config": CONFIG,
        "versions": {"python": "3.11", "ecomap_code": "abc"},
        "inputs": [
            Input(name="reference", path="real", sha256="a" * 64, kept=144,
                  dropped={"mostly masked": 3, "unreadable": 1}, notes=["2 images have alpha"]),
            Input(name="generated", path="made", sha256="b" * 64, kept=144),
        ],
        "spaces": {"eo": Space(description="our network", identity="c" * 64, width=256)},
        "systems": [
            System(name=name, kind=kind, description=f"about {name}", n=144,
                   problems={"blank": ["p1_01", "p1_02"]} if name == "persistence" else {})
            for name, kind in KINDS.items()
        ],
        "not_made": {"previous_year": "the reference has one year"},
        "notes": ["One year only."],
        "metrics": METRICS,
        "claims": claims(scores, tables, CONFIG),
        "scores": scores,
        "published": list(published_scores()),
        "seconds": {"measure": 12.5, "score": 2.5},
    }  # fmt: skip
    return Report(**(given | fields))
