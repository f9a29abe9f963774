"""Settings: YAML file, then environment (``PENSTOCK_...``), then flags; the later one wins.

A settings class is declared once and serves as schema of the YAML file, list of environment
variables and set of command-line flags.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from penstock.errors import InvalidInput

__all__ = ["Settings", "settings_options"]

ENV_PREFIX = "PENSTOCK_"

S = TypeVar("S", bound="Settings")


class Settings(BaseSettings):
    """Base of all settings; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    @classmethod
    def load(cls, config: Path | None = None, flags: dict[str, Any] | None = None) -> Self:
        """Combine the sources.

        Args:
            config: YAML file with keys named like the fields.
            flags: Values from the command line; None means not given.

        Raises:
            InvalidInput: The file cannot be read, a key is unknown, or a value does not fit; names
                file or key, value and reason.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        from_file = _read_yaml(cls, config) if config else {}
        from_environment = EnvSettingsSource(cls)()
        try:
            return cls(**{**from_file, **from_environment, **given})
        except ValidationError as error:
            raise _explain(cls, error) from error


def _read_yaml(settings: type[Settings], path: Path) -> dict[str, Any]:
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise InvalidInput(f"settings file {path} {what}", field="config")
    try:
        return YamlConfigSettingsSource(settings, yaml_file=path)()
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        why = " ".join(str(error).split())
        raise InvalidInput(f"settings file {path} cannot be read: {why}", field="config") from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"settings file {path} holds no settings: write lines of the form 'port: 50051'",
            field="config",
        ) from error


def settings_options(settings: type[S]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a click command: one flag per field of ``settings``, and ``--config FILE``.

    The command is called with ``settings=`` an instance, beside its own parameters.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*args: Any, config: Path | None, **parameters: Any) -> Any:
            flags = {name: parameters.pop(name) for name in settings.model_fields}
            flags = {name: value for name, value in flags.items() if value != ()}
            return command(*args, settings=settings.load(config, flags), **parameters)

        decorated: Callable[..., Any] = click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="YAML file with these settings; environment and flags win over it.",
        )(run)
        for name, field in reversed(settings.model_fields.items()):
            decorated = _option(name, field)(decorated)
        return decorated

    return decorate


def _option(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = f"--{name.replace('_', '-')}"
    kind, multiple = _click_type(field.annotation)
    default = "" if field.is_required() else field.get_default(call_default_factory=True)
    shown = default not in ("", None, ())
    if kind is bool:
        return click.option(
            f"{flag}/--no-{name.replace('_', '-')}",
            name,
            default=None,
            help=_help(field, default, shown=shown),
        )
    return click.option(
        flag,
        name,
        type=kind,
        multiple=multiple,
        default=None,
        help=_help(field, default, shown=shown),
    )


def _help(field: FieldInfo, default: object, *, shown: bool) -> str:
    text = field.description or ""
    if field.is_required():
        return f"{text}  [required]"
    return f"{text}  [default: {default}]" if shown else text


def _click_type(annotation: Any) -> tuple[Any, bool]:
    """Type for click, and whether the flag may be repeated."""
    origin: Any = get_origin(annotation)
    if origin in (Union, types.UnionType):
        (some,) = [part for part in get_args(annotation) if part is not types.NoneType]
        return _click_type(some)
    if origin is Literal:
        return click.Choice([str(value) for value in get_args(annotation)]), False
    if origin in (tuple, list):
        inner = list(get_args(annotation))
        if inner[-1] is not Ellipsis and len(inner) > 1:
            return click.Tuple(inner), False
        return _click_type(inner[0])[0], True
    if annotation is Path:
        return click.Path(path_type=Path), False
    return annotation, False


def _explain(settings: type[Settings], error: ValidationError) -> InvalidInput:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(sorted(settings.model_fields))
        return InvalidInput(f"setting {name!r} is not known: the settings are {known}", field=name)
    if problem["type"] == "missing":
        flag, variable = f"--{name.replace('_', '-')}", f"{ENV_PREFIX}{name.upper()}"
        return InvalidInput(f"setting {name!r} is missing: give {flag} or {variable}", field=name)
    what = problem["msg"].removeprefix("Value error, ")
    return InvalidInput(f"setting {name} is {problem['input']!r}: {what}", field=name)
