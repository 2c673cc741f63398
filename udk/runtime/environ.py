"""The payload's environment: image, files and flags, by docker's rules."""

from __future__ import annotations

from udk.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def env_file(text: str, name: str, host: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The settings of an environment file: (name, value), or (name, None) for a name the caller lacks.

    Docker's rules: one ``NAME=VALUE`` a line, taken literally (no quotes, no escapes, no interpolation);
    leading white space, empty lines and lines whose first character is ``#`` are skipped; ``NAME`` alone
    takes the caller's value and is left out where there is none; a byte order mark is ignored. Raises
    UsageError naming file and line."""
    settings: list[tuple[str, str | None]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if number == 1 and line.startswith("\ufeff"):
            line = line[1:]
        if line.endswith("\r"):
            line = line[:-1]
        line = line.lstrip(" \t\v\f")
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not key:
            raise UsageError(f"{name}:{number}: no variable name before `=`", "write NAME=VALUE")
        if any(c in key for c in " \t\0"):
            raise UsageError(
                f"{name}:{number}: variable name {key!r} contains white space", "write NAME=VALUE"
            )
        if "\0" in value:
            raise UsageError(f"{name}:{number}: the value of {key} contains a NUL byte")
        if equals:
            settings.append((key, value))
        elif key in host:
            settings.append((key, host[key]))
    return settings


def env_flag(text: str, host: Mapping[str, str]) -> tuple[str, str | None]:
    """``NAME=VALUE``, or ``NAME`` alone: the caller's value, None (remove it) where the caller has none."""
    key, equals, value = text.partition("=")
    if not key or "\0" in text:
        raise UsageError(f"--env {text!r} has no variable name", "write NAME=VALUE or NAME")
    return (key, value) if equals else (key, host.get(key))


def label(text: str, option: str) -> tuple[str, str]:
    """``NAME=VALUE``; ``NAME`` alone is empty."""
    key, _, value = text.partition("=")
    if not key:
        raise UsageError(f"{option} {text!r} has no name", "write NAME=VALUE")
    return key, value


def build(
    image: Iterable[str], settings: Iterable[tuple[str, str | None]], defaults: Mapping[str, str]
) -> dict[str, str]:
    """The environment in docker's order: defaults, the image's ``Env``, then the caller's settings; a
    setting of None removes the variable (docker's ``-e NAME`` for a name that is not set)."""
    env: dict[str, str] = {"PATH": DEFAULT_PATH, **defaults}
    for entry in image:
        key, equals, value = entry.partition("=")
        if key and equals:
            env[key] = value
    for key, setting in settings:
        if setting is None:
            env.pop(key, None)
        else:
            env[key] = setting
    return env
