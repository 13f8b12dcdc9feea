"""The house keeps its own rules: imports go down, light modules stay light, files stay short."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import ecomap

ROOT = Path(__file__).parents[1]
MODULE_LINES = 300
EXCEPTION_SENTENCE = "Longer than the budget because "

# What data_prep may know of ecomap: the contract, and the arithmetic of frames and normals.
SHARED_WITH_DATA_PREP = {
    "errors",
    "schema",
    "config",
    "normals",
    "indices",
    "imagery",
    "page",
    "prompt",
    "climate",
    "sequence",
}

# Modules that must answer without torch: requests are checked, and data made, before it loads.
WITHOUT_TORCH = [
    "ecomap",
    *(
        f"ecomap.{name}"
        for name in (
            *("bundle_paths", "cli", "climate", "config", "errors", "imagery", "indices"),
            *("card", "normals", "outputs", "page", "prompt", "request", "schema", "train"),
            *("train_config", "versions", "tiles", "scores", "evaluate_config", "image_sets"),
            *("pairing", "places", "image_subsets", "published", "evaluation_notes"),
            *("adapter_card", "inspect_model", "model_card", "transformer_config"),
            *("climate_maps", "sequence", "support", "support_build"),
            *("sequence_measures", "sequence_films", "sequence_page"),
        )
    ),
]

# What `ecomap --help` must not wait for.
HEAVY = {"torch", "diffusers", "transformers", "xarray", "rasterio", "geopandas", "matplotlib"}


def module_paths(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}".removesuffix(".__init__")


@cache
def layers() -> dict[str, int]:
    """Layer of each ecomap module, from the table ``| module | layer | ...`` of ARCHITECTURE.md."""
    path = ROOT / "ARCHITECTURE.md"
    assert path.is_file(), "ARCHITECTURE.md, which states the layers, is missing"
    rows = re.findall(r"^\|([^|]+)\|\s*(\d+)\s*\|", path.read_text(), re.MULTILINE)
    found = {
        name.removesuffix(".py"): int(layer)
        for cell, layer in rows
        for name in re.findall(r"`(?:ecomap[./])?([\w.]+)`", cell)
    }
    assert found, "ARCHITECTURE.md has no table | `module` | layer | what |"
    return found


def imports_of(source: str, package: str) -> set[str]:
    """Dotted names of the modules of this project that some code imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found |= {f"{package}.{node.module or alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("ecomap", "data_prep"):
            names = {alias.name for alias in node.names}
            found |= {
                f"{node.module}.{name}" if (ROOT / node.module / f"{name}.py").exists()
                else node.module
                for name in names
            }  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] in ("ecomap", "data_prep")}


def test_imports_are_found_in_every_form():
    source = """
import ecomap.flow as f
from ecomap import prompt, __version__
from ecomap.schema import CLIMATE
def lazy():
    from . import errors
    from .config import Config
    import data_prep.splits, json
"""
    assert imports_of(source, "ecomap") == {
        *("ecomap", "ecomap.flow", "ecomap.prompt", "ecomap.schema"),
        *("ecomap.errors", "ecomap.config", "data_prep.splits"),
    }


def test_architecture_names_every_module_once_and_nothing_else():
    modules = {path.stem for path in module_paths("ecomap")} - {"__init__"}
    assert set(layers()) == modules


# __init__ is left out: it names the verbs of all layers, and imports each when it is first used.
@pytest.mark.parametrize(
    "path", [path for path in module_paths("ecomap") if path.stem != "__init__"], ids=name_of
)
def test_ecomap_imports_only_from_lower_layers(path):
    own = layers()[path.stem]
    for name in imports_of(path.read_text(), "ecomap"):
        package, _, module = name.partition(".")
        if package == "data_prep":
            assert path.stem == "cli", f"{path.name} imports {name}; only the command line may"
        elif module:
            lower = layers()[module]
            assert lower < own, f"{path.name} (layer {own}) imports {module} (layer {lower})"


@pytest.mark.parametrize("path", module_paths("data_prep"), ids=name_of)
def test_data_prep_knows_only_the_contract_of_ecomap(path):
    imported = imports_of(path.read_text(), "data_prep")
    known = {name.removeprefix("ecomap.") for name in imported if name.startswith("ecomap")}
    assert known <= SHARED_WITH_DATA_PREP


# Its worker processes read sets of images that the same run wrote a moment before: what every
# executor does with its tasks, but once a worker rather than once a batch. No weights, no input.
MAY_PICKLE = {"measure"}


def test_no_module_loads_pickles_or_hides_errors():
    for path in [*module_paths("ecomap"), *module_paths("data_prep")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or getattr(node.type, "id", "") == "BaseException"
                assert not broad, f"{path.name}:{node.lineno} catches everything"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                allowed = path.stem in MAY_PICKLE or "pickle" not in names
                assert allowed, f"{path.name}:{node.lineno} imports pickle"


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in memory after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys; print('\\n'.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_modules_that_must_answer_without_torch_do():
    data_prep = [name_of(path) for path in module_paths("data_prep")]
    loaded = loaded_after("import " + ", ".join([*WITHOUT_TORCH, *data_prep]))
    assert {"ecomap", "data_prep"} <= loaded
    assert "torch" not in loaded


def test_importing_ecomap_loads_nothing_heavy():
    assert not loaded_after("import ecomap") & (HEAVY | {"pydantic", "numpy"})


def test_help_waits_for_nothing_heavy():
    code = "import sys; sys.argv = ['ecomap', '--help']\nfrom ecomap.cli import main\n"
    loaded = loaded_after(f"{code}try:\n    main()\nexcept SystemExit:\n    pass")
    assert "typer" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "path", [*module_paths("ecomap"), *module_paths("data_prep")], ids=name_of
)  # fmt: skip
def test_a_module_keeps_its_size_or_says_why_not(path):
    source = path.read_text()
    docstring = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
    assert docstring, f"{path.name} says nothing about itself"
    if EXCEPTION_SENTENCE not in docstring:
        lines = len(source.splitlines())
        assert lines <= MODULE_LINES, f"{path.name} has {lines} lines; split it, or say why not"


def test_public_names_resolve_and_each_is_listed_once():
    assert ecomap.__all__ == sorted(set(ecomap.__all__))
    for name in ecomap.__all__:
        assert getattr(ecomap, name).__name__ == name


def test_a_verb_stays_a_function_when_its_module_is_imported():
    module = import_module("ecomap.demo")
    ecomap.demo = module  # what the import system does, once, whenever that import comes first
    assert ecomap.demo is module.demo


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'gnerate'"):
        ecomap.gnerate  # noqa: B018


def test_constraints_pin_each_package_once_to_one_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = [pin.split("==")[0] for pin in pins]
    assert all(first < second for first, second in pairwise(names))


def test_every_dependency_has_a_lower_bound_and_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for part in lists for line in part.splitlines()]
    needed = [line for line in lines if not line.startswith("#")]
    assert len(needed) > 20
    for line in needed:
        assert re.fullmatch(r'"[\w-]+>=[\d.]+",  # .+', line), line
