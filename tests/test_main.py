"""``python -m ecomap``, and the configs with which `accelerate launch` starts it."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

CONFIGS = Path(__file__).parents[1] / "configs"


def test_the_module_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "ecomap", "train", "nowhere.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere.yaml" in done.stderr


@pytest.mark.parametrize("sharing", ["ddp", "fsdp"])
def test_launch_configs_say_what_the_loop_knows(sharing):
    command = ["--config_file", str(CONFIGS / f"accelerate_{sharing}.yaml"), "-m", "ecomap"]
    arguments = _validate_launch_command(launch_command_parser().parse_args(command))[0]
    environment = prepare_multi_gpu_env(arguments)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") == "1"
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (sharing == "fsdp")
    if sharing == "fsdp":
        assert environment["FSDP_VERSION"] == "2"
        assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "JointTransformerBlock"
        assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
