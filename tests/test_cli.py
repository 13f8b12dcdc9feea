"""The command line: what scripts rely on. What the verbs do is tested with their functions."""

import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import ecomap
from ecomap import adapter_card, bundle_paths, cli
from ecomap.schema import CLIMATE, make_record, write_dataset
from ecomap.train import TASKS

ROOT = Path(__file__).parents[1]


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def verbs(command=None, path=()):
    """Each verb of the command line by its words."""
    command = command or get_command(cli.app)
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    found = {}
    for name, part in command.commands.items():
        found |= verbs(part, (*path, name))
    return found


def options_of(verb):
    return {name for parameter in verbs()[verb].params for name in parameter.opts}


@pytest.fixture
def dataset(tmp_path):
    """Places a degree apart with one frame each."""
    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    records = []
    for index in range(60):
        image_path = f"images/{index}.png"
        Image.linear_gradient("L").resize((24, 16)).rotate(index).convert("RGB").save(
            folder / image_path
        )
        fields = {
            "source": "made-up",
            "location_id": str(index),
            "month": "2021-07",
            "lat": float(index % 10),
            "lon": float(index // 10),
            "ground_sampling_distance_m": 10.0,
            "width_px": 24,
            "height_px": 16,
            "license": "CC0-1.0",
            "image_path": image_path,
        }
        records.append(make_record(fields, where="test"))
    write_dataset(folder, records)
    return folder


def test_the_verbs_are_those_that_people_know():
    assert set(verbs()) == {
        "data import ecomapper",
        "data import bluemarble",
        "data check",
        "data split",
        "data windows",
        "prep plan",
        "prep fetch",
        "prep build",
        "prep run",
        "prep export",
        "prep report",
        "train",
        "evaluate",
        "model inspect",
        "model merge",
        "model convert",
        "model path",
        "model list",
        "generate",
        "evolve",
        "demo",
    }


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself_and_speaks_json(verb):
    done = run(*verb.split(), "--help")
    assert done.exit_code == 0
    assert verbs()[verb].help
    assert "--json" in options_of(verb)


@pytest.mark.parametrize(
    ("verbs_with_it", "option"),
    [
        (("data import ecomapper", "data check", "train", "generate", "demo"), "--output"),
        (("data split", "train", "generate", "demo"), "--seed"),
        (("train", "generate", "demo"), "--device"),
    ],
)
def test_verbs_share_the_words_for_the_same_thing(verbs_with_it, option):
    for verb in verbs_with_it:
        assert option in options_of(verb)


@pytest.mark.parametrize("words", [[], ["data"], ["data", "import"], ["model"]])
def test_a_group_alone_prints_its_help_as_bad_usage(words):
    done = run(*words)
    assert done.exit_code == 2
    assert "Commands:" in done.output


def test_version_names_what_matters_and_its_version():
    done = run("--version")
    assert done.exit_code == 0
    versions = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    torch_version = import_module("torch").__version__.split("+")[0]
    assert versions["torch"].split("+")[0] == torch_version
    assert set(versions) == {
        *("ecomap", "ecomap_code", "python", "torch", "diffusers", "transformers", "peft"),
        "accelerate",
    }


def test_the_installed_command_is_this_module():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["ecomap"].partition(":")
    assert getattr(import_module(module), name) is cli.main


# --- errors and exit codes ------------------------------------------------------------------


def test_an_error_of_ours_is_one_message_on_stderr_and_exit_2():
    done = run("model", "path", "ecomap-huge")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: 'ecomap-huge' is no bundle and no folder.")
    assert "Traceback" not in done.stderr


def test_an_error_in_a_fresh_process_shows_no_traceback(tmp_path):
    code = "from ecomap.cli import main; main()"
    words = ["data", "split", str(tmp_path / "nowhere"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: \S+records\.parquet does not exist\. .*\n", done.stderr)


def test_an_unknown_option_is_bad_input():
    done = run("generate", "--latitude", 3)
    assert done.exit_code == 2
    assert "--latitude" in done.stderr


def test_a_path_that_cannot_be_written_is_bad_input(dataset):
    (dataset / "dataset.json").unlink()
    (dataset / "dataset.json").mkdir()
    done = run("data", "split", dataset)
    assert done.exit_code == 2
    assert re.match(r"error: \S+ cannot be used: Is a directory\.", done.stderr)


def test_an_interrupt_is_one_sentence_and_exit_130(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_paths, "bundle_names", interrupt)
    done = run("model", "list")
    assert done.exit_code == 130
    assert done.stderr.startswith("interrupted.")


def test_a_fault_of_ours_is_not_dressed_up_as_bad_input(monkeypatch):
    monkeypatch.setattr(bundle_paths, "bundle_names", lambda: 1 / 0)
    assert isinstance(run("model", "list").exception, ZeroDivisionError)


def test_listed_failures_end_with_1_after_the_result(capsys):
    with pytest.raises(typer.Exit) as left:
        cli._finish({"kept": 2, "failures": ["a.png: damaged"]}, as_json=True)
    assert left.value.exit_code == 1
    assert json.loads(capsys.readouterr().out) == {"kept": 2, "failures": ["a.png: damaged"]}


def test_no_failures_end_with_0(capsys):
    cli._finish({"kept": 2, "failures": []}, as_json=False)
    assert capsys.readouterr().out == "kept: 2\nfailures: []\n"


# --- verbs ----------------------------------------------------------------------------------


def test_data_split_prints_one_json_object_and_divides_the_dataset(dataset):
    done = run(
        "data", "split", dataset, "--seed", 3, "--block-deg", 2, "--test-frac", 0.3, "--json"
    )
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    tiles = report["tiles"]
    assert sum(tiles.values()) == 60
    assert tiles == {
        side: sum(record.split == side for record in ecomap.read_dataset(dataset)) for side in tiles
    }
    assert len(tiles) > 1
    settings = json.loads((dataset / "dataset.json").read_text())["split"]
    assert (settings["seed"], settings["block_deg"], settings["test_frac"]) == (3, 2.0, 0.3)


def test_data_split_keeps_the_function_s_own_defaults(dataset):
    from data_prep.splits import SplitConfig

    assert run("data", "split", dataset).exit_code == 0
    settings = json.loads((dataset / "dataset.json").read_text())["split"]
    assert {name: settings[name] for name in vars(SplitConfig())} == vars(SplitConfig())


def test_data_split_with_impossible_fractions_is_bad_input(dataset):
    done = run("data", "split", dataset, "--test-frac", 0.9, "--val-frac", 0.2)
    assert done.exit_code == 2
    assert "must stay below 1" in done.stderr


def test_data_check_lists_a_damaged_frame_and_ends_with_1(dataset, tmp_path):
    (dataset / "images" / "7.png").write_bytes(b"\x89PNG no image")
    done = run("data", "check", dataset, "--output", tmp_path / "check", "--json")
    assert done.exit_code == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["frames"] == 59
    assert "7.png" in json.dumps(report["failures"])


def test_data_check_prints_tables_for_people(dataset):
    done = run("data", "check", dataset)
    assert done.exit_code == 0, done.stderr
    assert "60 frames of 60 places" in " ".join(done.stdout.split())


@pytest.mark.parametrize("source", ["ecomapper", "bluemarble"])
def test_importing_an_empty_folder_is_bad_input(tmp_path, source):
    (tmp_path / "tree").mkdir()
    done = run("data", "import", source, tmp_path / "tree", "--output", tmp_path / "dataset")
    assert done.exit_code == 2
    assert str(tmp_path / "tree") in done.stderr


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"task: transformer\ndataset: {tmp_path}/none\nvae: {tmp_path}/vae\ncache: {tmp_path}\n"
    )
    return path


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optim.stepps=3"], "optim: unknown key 'stepps'. Did you mean 'steps'?"),
        (["--seed", "-"], "--seed"),
        (["seed=x"], "seed is 'x'; it must be a valid integer."),
        (["batch_size"], "Override 'batch_size' is not of the form"),
    ],
)
def test_training_settings_that_are_wrong_are_bad_input(config_file, words, reason):
    done = run("train", config_file, *words)
    assert done.exit_code == 2
    assert reason in done.stderr


def test_a_config_without_a_known_task_names_the_tasks(config_file):
    config_file.write_text("task: lora\n")
    done = run("train", config_file)
    assert done.exit_code == 2
    tasks = "autoencoder, features, transformer"
    assert done.stderr.endswith(f"task is 'lora'; choose one of {tasks}.\n")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_config_and_its_function(task):
    kind, module = TASKS[task]
    assert kind.model_fields["task"].default == task
    parameters = inspect.signature(import_module(module).train).parameters
    assert {"config", "output", "device"} <= set(parameters)


@pytest.fixture
def asked(monkeypatch):
    """What a verb hands to its function."""
    words = {}

    class Result:
        def to_dict(self):
            return {"seed": words.get("seed")}

    def stand_in(name):
        def verb(**given):
            words.update(given)
            print("a library that prints")
            return Result()

        monkeypatch.setattr(import_module(f"ecomap.{name}"), name, verb)

    stand_in("generate")
    stand_in("demo")
    return words


def test_generate_hands_on_only_what_was_typed(asked):
    done = run(
        *("generate", "--lat", -12.5, "--lon", "-70", "--month", "2004-07", "-n", 3),
        *("--temperature", -10, "--precipitation", "x0.5", "--solar", "=21.5", "--seed", 4),
    )
    assert done.exit_code == 0, done.stderr
    asked.pop("progress")
    assert asked == {
        "lat": -12.5,
        "lon": -70.0,
        "month": "2004-07",
        "number": 3,
        "temperature": "-10",
        "precipitation": "x0.5",
        "solar": "=21.5",
        "seed": 4,
        "device": "auto",
    }


@pytest.mark.parametrize("verb", ["generate", "demo"])
def test_with_json_stdout_holds_the_object_and_nothing_that_a_library_prints(asked, verb):
    done = run(verb, "--seed", 5, "--json")
    assert json.loads(done.stdout) == {"seed": 5}
    assert len(done.stdout.splitlines()) == 1
    assert "a library that prints" in done.stderr


@pytest.mark.parametrize("verb", ["generate", "demo"])
def test_options_are_the_words_of_the_public_function(verb):
    parameters = set(inspect.signature(getattr(ecomap, verb)).parameters)
    words = {parameter.name for parameter in verbs()[verb].params} - {"as_json", "help"}
    assert words <= parameters


def test_generate_states_the_units_of_the_contract():
    text = " ".join(run("generate", "--help").stdout.split())
    for variable in CLIMATE.values():
        assert f"--{variable.short}" in text
        assert f"(offset, {variable.unit})" in text
        assert variable.short in inspect.signature(ecomap.generate).parameters


def test_only_ratios_can_be_scaled():
    options = {parameter.name: parameter.help for parameter in verbs()["generate"].params}
    scaled = {v.short for v in CLIMATE.values() if "factor" in options[v.short]}
    assert scaled == {"precipitation", "solar"}


# --- bundles --------------------------------------------------------------------------------


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    """Two shipped bundles, and one of one's own."""
    for folder in ("shipped/small", "shipped/large", "mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model_index.json").write_text("{}")
    (tmp_path / "shipped" / "no-bundle").mkdir()
    (tmp_path / "adapters/s2").mkdir(parents=True)
    (tmp_path / "adapters/s2/adapter.json").write_text("{}")
    monkeypatch.setattr(bundle_paths, "BUNDLES_FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(adapter_card, "ADAPTERS_FOLDER", tmp_path / "adapters")
    return tmp_path


def test_model_list_names_the_shipped_bundles_and_adapters(bundles):
    assert run("model", "list").stdout == "large\nsmall\ns2 (adapter)\n"
    found = json.loads(run("model", "list", "--json").stdout)
    assert found == {"bundles": ["large", "small"], "adapters": ["s2"]}


def test_an_adapter_is_told_from_a_bundle(bundles):
    done = run("model", "path", str(bundles / "adapters" / "s2"))
    assert done.exit_code == 2
    assert "Give it as --adapter" in done.stderr


def test_model_path_prints_the_folder_and_nothing_else(bundles):
    assert run("model", "path", "small").stdout == f"{bundles / 'shipped' / 'small'}\n"
    assert run("model", "path", bundles / "mine").stdout == f"{bundles / 'mine'}\n"
    done = run("model", "path", "small", "--json")
    assert json.loads(done.stdout)["path"] == str(bundles / "shipped" / "small")


@pytest.mark.parametrize("name", ["smal", "no-bundle", "shipped"])
def test_an_unknown_bundle_lists_the_choices(bundles, name):
    done = run("model", "path", name)
    assert done.exit_code == 2
    assert "Choose one of 'large', 'small'" in done.stderr


def test_a_folder_that_is_no_bundle_says_what_it_lacks(bundles):
    done = run("model", "path", bundles / "shipped" / "no-bundle")
    assert done.exit_code == 2
    assert "is a folder without model_index.json" in done.stderr
