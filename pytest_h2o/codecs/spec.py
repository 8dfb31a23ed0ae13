"""A codec in one word, as it is written on a command line: ``zstd``, ``zstd:level=19``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pytest_h2o.codecs.base import Codec
from pytest_h2o.codecs.registry import codec_class, get_codec
from pytest_h2o.errors import CodecError


def parse_codec(text: str) -> Codec:
    """The codec that `text` names: its id, then ``:setting=value`` for each setting that is not the default.

    A value is read as the type of the setting's default; the items of a tuple stand between ``+``.

    Raises
    ------
    CodecError
        The text has another form, or the codec does not exist or does not take the settings.
    """
    name, *settings = text.split(":")
    defaults = {field.name: field.default for field in fields(codec_class(name))}
    config: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in config:
            raise CodecError(
                f"{text!r} names no codec",
                came=repr(setting),
                expected="NAME or NAME:SETTING=VALUE, each setting once",
            )
        config[key] = _parse_value(value, defaults.get(key))
    return get_codec(name, **config)


def render_codec(codec: Codec) -> str:
    """The shortest text that `parse_codec` takes for `codec`, where all its values can be written so."""
    default = {field.name: field.default for field in fields(codec)}
    changed = {k: v for k, v in ((name, getattr(codec, name)) for name in default) if v != default[k]}
    return ":".join(
        [codec.id, *(f"{k}={'+'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in changed.items())]
    )


def _parse_value(value: str, default: Any) -> Any:
    """`value` as the type of `default`; what cannot be read so stays text, for the check of settings to refuse."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[value.lower()]
        if isinstance(default, (int, float)):
            return type(default)(value)
    except (KeyError, ValueError):
        return value
    return tuple(value.split("+")) if isinstance(default, tuple) else value
