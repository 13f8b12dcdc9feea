"""Settings of an evaluation refuse what cannot be."""

import pytest

from ecomap.config import load_config
from ecomap.errors import ConfigError
from ecomap.evaluate_config import EvaluateConfig


def test_months_are_calendar_months():
    assert load_config(None, EvaluateConfig, ["months=[1, 12]"]).months == (1, 12)
    for bad in ("[0]", "[13]", "[]"):
        with pytest.raises(ConfigError, match="calendar months, 1 to 12"):
            load_config(None, EvaluateConfig, [f"months={bad}"])


@pytest.mark.parametrize("bad", ["equal_n=3", "level=1", "groups=[weather]", "num_draws=1"])
def test_impossible_settings_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=bad.split("=")[0]):
        load_config(None, EvaluateConfig, [bad])
