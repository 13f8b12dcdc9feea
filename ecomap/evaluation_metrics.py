"""All metrics of a report by name, gathered from the modules that compute them."""

from ecomap import (
    adherence,
    clip_score,
    forecast,
    paired,
    realism,
    responses,
    vegetation,
    vegetation_extremes,
    vegetation_pairs,
)
from ecomap.scores import Metric

METRICS: dict[str, Metric] = {
    name: metric
    for module in (
        *(realism, paired, adherence, clip_score),
        *(vegetation, vegetation_extremes, vegetation_pairs, responses, forecast),
    )
    for name, metric in module.METRICS.items()
}
"""What a reader must know of each metric."""
