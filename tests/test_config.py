"""The config loader: what differs is read, what is wrong is named with what would be right."""

from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from ecomap.config import Config, dump_config, load_config, read_yaml
from ecomap.errors import ConfigError


class OptimConfig(Config):
    """A section."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak rate."""
    steps: int = 1000


class LoraConfig(Config):
    """A section that may be absent."""

    rank: int = 64


class RunConfig(Config):
    """A run."""

    optim: OptimConfig = OptimConfig()
    density: Literal["uniform", "logit_normal"] = "uniform"
    lora: LoraConfig | None = None
    folders: tuple[Path, ...] = ()
    name: str = "run"
    use_ema: bool = True


class DatasetConfig(Config):
    """A config with a key that has no default."""

    dataset: Path


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load_error(path, *overrides, kind=RunConfig):
    with pytest.raises(ConfigError) as caught:
        load_config(path, kind, overrides)
    return str(caught.value)


def test_without_a_file_every_value_is_the_default():
    assert load_config(None, RunConfig) == RunConfig()


def test_an_empty_file_changes_nothing(yaml_file):
    assert load_config(yaml_file("# nothing yet\n"), RunConfig) == RunConfig()


def test_the_file_wins_over_defaults_and_overrides_over_the_file(yaml_file):
    path = yaml_file("optim:\n  learning_rate: 2e-6\n  steps: 7\nfolders: [a, b/c]\n")
    config = load_config(path, RunConfig, ["optim.steps=9", "density=logit_normal"])
    assert config.optim == OptimConfig(learning_rate=0.000002, steps=9)
    assert config.folders == (Path("a"), Path("b/c"))
    assert config.density == "logit_normal"


def test_a_later_override_wins_over_an_earlier_one():
    assert load_config(None, RunConfig, ["name=a", "name=b"]).name == "b"


def test_an_override_opens_a_section_that_is_off(yaml_file):
    path = yaml_file("lora: null\n")
    assert load_config(path, RunConfig, ["lora.rank=8"]).lora == LoraConfig(rank=8)


def test_an_override_closes_a_section(yaml_file):
    path = yaml_file("lora:\n  rank: 8\n")
    assert load_config(path, RunConfig, ["lora=null"]).lora is None


def test_an_override_may_hold_a_list_or_an_equals_sign():
    config = load_config(None, RunConfig, ["folders=[x, y]", "name=a=b"])
    assert config.folders == (Path("x"), Path("y"))
    assert config.name == "a=b"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("2e-6", 2e-6), ("1E3", 1000.0), ("-.5", -0.5), ("3.", 3.0), ("7", 7), ("-7", -7)],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None)],
        # PyYAML alone would make these False, True, 8, 90 and a date.
        *[("off", "off"), ("yes", "yes"), ("010", "010"), ("1:30", "1:30")],
        *[("2004-07-01", "2004-07-01"), ("2004-07", "2004-07"), ("'7'", "7"), ("2e", "2e")],
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(yaml_file, text, value):
    found = read_yaml(yaml_file(f"key: {text}\n"))["key"]
    assert found == value
    assert type(found) is type(value)


def test_an_unknown_key_names_file_section_and_nearest_key(yaml_file):
    path = yaml_file("optim:\n  lerning_rate: 1\n")
    assert load_error(path) == (
        f"{path}: optim: unknown key 'lerning_rate'. Did you mean 'learning_rate'?"
    )


def test_an_unknown_key_in_an_optional_section_is_compared_with_that_section(yaml_file):
    message = load_error(yaml_file("lora:\n  rnak: 8\n"))
    assert "lora: unknown key 'rnak'. Did you mean 'rank'?" in message


def test_an_unknown_key_like_no_other_lists_the_known_ones(yaml_file):
    message = load_error(yaml_file("zzz: 8\n"))
    assert "unknown key 'zzz'. Known keys: optim, density, lora, folders, name, use_ema." in message


def test_a_wrong_choice_names_key_value_and_choices(yaml_file):
    path = yaml_file("density: logit-normal\n")
    assert load_error(path) == (
        f"{path}: density is 'logit-normal'; it must be 'uniform' or 'logit_normal' "
        "(did you mean 'logit_normal'?)."
    )


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optim.steps=fast", "optim.steps is 'fast'; it must be a valid integer."),
        ("optim.steps=2.5", "optim.steps is 2.5; it must be a valid integer"),
        ("optim.steps=true", "optim.steps is True; it must be a number."),
        ("optim.learning_rate=false", "optim.learning_rate is False; it must be a number."),
        ("optim.learning_rate=-1", "optim.learning_rate is -1; it must be greater than 0."),
        ("optim.learning_rate=.nan", "optim.learning_rate is nan; it must be a finite number."),
        ("optim=5", "optim is 5; it must be a section with keys of its own."),
        ("use_ema=3", "use_ema is 3; it must be a valid boolean"),
        ("optim.rate=1", "optim: unknown key 'rate'."),
    ],
)
def test_a_wrong_override_is_blamed_on_the_override_not_on_the_file(yaml_file, override, reason):
    message = load_error(yaml_file("name: a\n"), override)
    assert message.startswith(f"Override '{override}': {reason}")


def test_every_wrong_key_gets_a_line_of_its_own(yaml_file):
    path = yaml_file("optim:\n  stepps: 1\ndensity: flat\n")
    lines = load_error(path, "name=[1]").splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path), str(path), "Override 'name=[1]'"]


def test_true_stays_a_boolean_where_one_is_asked_for():
    assert load_config(None, RunConfig, ["use_ema=false"]).use_ema is False


def test_a_missing_value_says_how_to_give_it():
    message = load_error(None, kind=DatasetConfig)
    assert message == (
        "DatasetConfig: dataset is missing; set it in the file or with dataset=VALUE."
    )


@pytest.mark.parametrize("override", ["optim.steps", "=3", "optim.=3", ".steps=3", ""])
def test_an_override_without_key_and_value_is_refused(override):
    assert "is not of the form section.key=value" in load_error(None, override)


def test_an_override_below_a_plain_value_is_refused(yaml_file):
    message = load_error(yaml_file("name: a\n"), "name.first=b")
    assert message == "Override 'name.first=b': name is 'a', which has no keys."


def test_an_override_that_is_no_yaml_is_refused():
    assert "Override 'folders=[a': the value is not valid YAML" in load_error(None, "folders=[a")


def test_a_missing_file_is_named(tmp_path):
    assert load_error(tmp_path / "none.yaml") == (
        f"{tmp_path / 'none.yaml'} cannot be read: No such file or directory."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", "is not valid YAML"),
        ("a: 1\n b: 2", "(line 2, column 3)"),
        ("- a\n- b", "expected lines of 'key: value'"),
        ("name: a\nname: b", "the key 'name' stands twice (line 2, column 1)"),
        ("optim: {steps: 1, steps: 2}", "the key 'steps' stands twice"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused(yaml_file, text, reason):
    path = yaml_file(text)
    message = load_error(path)
    assert message.startswith(str(path))
    assert reason in message
    assert "\n" not in message


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    assert load_error(path) == f"{path} is not a text file in UTF-8."


def test_a_config_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().name = "other"


def test_the_docstring_below_a_key_is_its_description():
    assert OptimConfig.model_fields["learning_rate"].description == "Peak rate."


def test_a_dump_holds_every_key_and_no_temporary_file_stays(tmp_path):
    dump_config(RunConfig(lora=LoraConfig()), tmp_path / "config.yaml")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {
        "optim": {"learning_rate": 0.001, "steps": 1000},
        "density": "uniform",
        "lora": {"rank": 64},
        "folders": [],
        "name": "run",
        "use_ema": True,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@given(
    name=st.one_of(
        st.text(),
        st.sampled_from(["2e-6", "1e5", "off", "true", "null", "~", "", "7", ".5", "010", "1:30"]),
    ),
    rate=st.floats(min_value=1e-300, max_value=1e300, exclude_min=True),
    steps=st.integers(),
)
def test_a_dump_reads_back_as_the_same_config(tmp_path_factory, name, rate, steps):
    config = RunConfig(name=name, optim=OptimConfig(learning_rate=rate, steps=steps))
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    dump_config(config, path)
    assert load_config(path, RunConfig) == config
