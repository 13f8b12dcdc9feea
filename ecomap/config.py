"""Typed configuration: defaults and meanings live in classes, YAML holds only what differs.

A verb and the modules that are its parts know its config class; what several verbs use takes plain
values.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from ecomap.errors import ConfigError


class Config(BaseModel):
    """Base of all configurations: immutable, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would read ``steps: true`` as 1.
        annotation = cls.model_fields[info.field_name or ""].annotation
        numbers = {int, float} & set(_types_in(annotation))
        if isinstance(value, bool) and numbers and bool not in _types_in(annotation):
            raise ValueError("it must be a number")
        return value


C = TypeVar("C", bound=Config)


def load_config(path: Path | None, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Read a configuration: defaults of ``kind``, then the file, then the overrides.

    Args:
        path: YAML file with what differs from the defaults; ``None`` for no file.
        kind: Config class that states every key, its default and its meaning.
        overrides: ``"optim.steps=200"``, the value in YAML.

    Raises:
        ConfigError: If the file is missing or no YAML, or, one line for each, a key is unknown or
            missing or its value not allowed.
    """
    values = {} if path is None else read_yaml(path)
    for override in overrides:
        _override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = kind.__name__ if path is None else str(path)
        lines = [_describe(detail, kind, where, overrides) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def dump_config(config: Config, path: Path) -> None:
    """Write every key of a configuration as YAML, by an atomic rename."""
    text = yaml.dump(
        config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    ``2e-6`` is a number; only ``true`` and ``false`` are booleans; a key may stand only once.

    Raises:
        ConfigError: If the file cannot be read, is no YAML, or holds no mapping.
    """
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file in UTF-8.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_one_line(error)}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {content!r:.60}; expected lines of 'key: value'.")
    return content


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: PyYAML's own reads ``2e-6`` as text, ``off`` as false, ``010`` as 8."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: PyYAML would keep the last one."""
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `_Loader` would read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _override(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=value`` in nested mappings, making those that are absent."""
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not all([*sections, last]):
        raise ConfigError(f"Override {override!r} is not of the form section.key=value.")
    for depth, section in enumerate(sections):
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            name = ".".join(sections[: depth + 1])
            raise ConfigError(f"Override {override!r}: {name} is {values!r}, which has no keys.")
    try:
        values[last] = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"Override {override!r}: the value is not valid YAML: {_one_line(error)}."
        ) from None


def _describe(
    detail: ErrorDetails, kind: type[Config], where: str, overrides: Sequence[str]
) -> str:
    """One line: where, which key, what it is, what it may be."""
    parts = [str(part) for part in detail["loc"]]
    key = ".".join(parts)
    for override in overrides:
        name = override.partition("=")[0].strip()
        if key == name or key.startswith(name + "."):
            where = f"Override {override!r}"
    if detail["type"] == "extra_forbidden":
        section, owner = _owner(kind, parts)
        near = get_close_matches(parts[-1], owner.model_fields, n=1)
        names = ", ".join(owner.model_fields)
        guess = f"Did you mean {near[0]!r}?" if near else f"Known keys: {names}."
        return f"{where}: {section}unknown key {parts[-1]!r}. {guess}"
    if detail["type"] == "missing" and parts[-1].isdecimal():
        return f"{where}: {'.'.join(parts[:-1])} has {parts[-1]} values; it needs more."
    if detail["type"] == "missing":
        return f"{where}: {key} is missing; set it in the file or with {key}=VALUE."
    if not key:
        return f"{where}: {_allowed(detail)}."
    return f"{where}: {key} is {detail['input']!r}; {_allowed(detail)}."


def _allowed(detail: ErrorDetails) -> str:
    """What a value may be, from pydantic's message."""
    if detail["type"] == "model_type":
        return "it must be a section with keys of its own"
    if detail["type"] == "tuple_type":
        return "it must be a list, [a, b, ...]"
    if detail["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        near = get_close_matches(str(detail["input"]), choices, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        return f"it must be {detail['ctx']['expected']}{guess}"
    message = detail["msg"].removeprefix("Value error, ").split(", unable to parse")[0]
    return message.replace("Input should be", "it must be").rstrip(".")


def _owner(kind: type[Config], parts: Sequence[str]) -> tuple[str, type[Config]]:
    """The section that a key stands in, as ``"a.b: "``, and the class that states its keys."""
    owner = kind
    for part in parts[:-1]:
        field = owner.model_fields.get(part)
        inner = [t for t in _types_in(field.annotation) if _is_config(t)] if field else []
        owner = inner[0] if inner else owner
    section = ".".join(parts[:-1])
    return (f"{section}: " if section else ""), owner


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _types_in(annotation: Any) -> Iterator[Any]:
    """The types that an annotation such as ``tuple[int, ...] | None`` is made of."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _types_in(argument)


def _one_line(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join(str(problem).split()) + place
