"""What every test shares: no model hub, one thread for torch's kernels, and the shared data."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers share the cores

import pytest
from hypothesis import settings

# Same examples in every run, and no time limit on one: a busy machine is not a fault.
settings.register_profile("ecomap", derandomize=True, deadline=None)
settings.load_profile("ecomap")

SHARED_FOLDER = Path(
    os.environ.get("ECOMAP_SHARED", Path(__file__).parents[2] / "shared")
).resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data that lies beside a checkout; its tests are skipped where it is absent.

    With ``ECOMAP_REQUIRE_SHARED=1`` absence is a failure, so that CI cannot pass without it.
    """
    folder = SHARED_FOLDER / "data"
    if not folder.is_dir():
        message = f"{folder} does not exist; set ECOMAP_SHARED to the folder that holds data/."
        if os.environ.get("ECOMAP_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
