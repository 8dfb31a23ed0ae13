"""Codecs by name: the built-in ones, those of installed distributions, and those registered by a conftest.

Names are known without importing a codec, or numpy. A distribution adds a codec with an entry point whose name is the
codec's id::

    [project.entry-points."pytest_h2o.codecs"]
    my_codec = "my_package.my_codec:MyCodec"

A name means one codec: one that is taken already is refused, whoever asks.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_h2o.errors import CodecError, did_you_mean

if TYPE_CHECKING:
    from pytest_h2o.codecs.base import Codec

ENTRY_POINT_GROUP = "pytest_h2o.codecs"

BUILT_IN: Mapping[str, str] = {
    "adaptive_v22": "pytest_h2o.codecs.adaptive_v22:AdaptiveV22",
    "legacy": "pytest_h2o.codecs.adaptive_v22:Legacy",
    "zstd": "pytest_h2o.codecs.zstd:Zstd",
    "byteplane": "pytest_h2o.codecs.zstd:Byteplane",
    "gear_v3": "pytest_h2o.codecs.gear_v3:GearV3",
    "fixedexp": "pytest_h2o.codecs.fixedexp:FixedExp",
    "expbias": "pytest_h2o.codecs.expbias:ExpBias",
    "rowref": "pytest_h2o.codecs.rowref:RowRef",
    "rowref_max": "pytest_h2o.codecs.rowref_max:RowRefMax",
}
"""Id to ``module:class`` of the codecs of this package."""

_ID = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_registered: dict[str, type[Codec]] = {}
_C = TypeVar("_C", bound="type[Codec]")


def codec_names() -> tuple[str, ...]:
    """Ids of all codecs that there are: built-in, of installed distributions, registered; none is imported.

    Raises CodecError where two claim one name.
    """
    return (*BUILT_IN, *sorted(_plugins()), *sorted(_registered))


def codec_class(name: str) -> type[Codec]:
    """The class of the codec `name`, imported now; CodecError where there is none or it cannot be loaded."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise CodecError(f"codec {name!r} cannot be loaded", where=module, came=str(error)) from error
        return _checked(cls, name, BUILT_IN[name])
    if name in _registered:
        return _registered[name]
    if name in _plugins():
        return _load(_plugins()[name])
    names = codec_names()
    raise CodecError(
        f"there is no codec {name!r}",
        expected=", ".join(names),
        hint=did_you_mean(name, names, most=3, cutoff=0.5, quoted=True),
    )


def get_codec(name: str, **config: Any) -> Codec:
    """The codec `name` with settings; those that are not given have their defaults, an unknown one is a CodecError."""
    return codec_class(name).from_config(config)


def codec_from_config(config: Mapping[str, Any]) -> Codec:
    """The codec that `Codec.config` described: its ``id``, and its settings."""
    name = config.get("id")
    if not isinstance(name, str):
        raise CodecError(
            "a codec configuration names no codec",
            came=repr(dict(config)),
            expected="a mapping with the codec's name under 'id'",
        )
    return codec_class(name).from_config(config)


def parse_codec(text: str) -> Codec:
    """The codec that `text` names: its id, then ``:setting=value`` for each setting that is not the default.

    A value is read as the type of the setting's default; the items of a tuple stand between ``+``.
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
    changed = {f.name: getattr(codec, f.name) for f in fields(codec) if getattr(codec, f.name) != f.default}
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


def register(cls: _C) -> _C:
    """Add a codec for this process, from a conftest or a script; usable as a decorator.

    Raises CodecError where the class is no codec or its id is taken.
    """
    where = f"{getattr(cls, '__module__', '?')}:{getattr(cls, '__qualname__', repr(cls))}"
    name = _checked(cls, getattr(cls, "id", None), where).id
    if _registered.get(name) is not cls:
        taken_by: str | None = None
        if name in BUILT_IN:
            taken_by = BUILT_IN[name]
        elif name in _registered:
            taken_by = f"{_registered[name].__module__}:{_registered[name].__qualname__}"
        elif name in _plugins():
            taken_by = _described(_plugins()[name])
        if taken_by is not None:
            raise CodecError(
                f"the codec name {name!r} is taken",
                where=where,
                came=f"the id of {taken_by}",
                hint="give your codec another id",
            )
        _registered[name] = cls
    return cls


def unregister(name: str) -> None:
    """Forget a codec that was added with `register`; others stay."""
    _registered.pop(name, None)


@cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    """Entry points by name; found once a process, loaded only when asked for."""
    plugins: dict[str, metadata.EntryPoint] = {}
    for plugin in metadata.entry_points(group=ENTRY_POINT_GROUP):
        other = plugins.setdefault(plugin.name, plugin)
        same = other.value == plugin.value  # one distribution can be found twice, by two path entries
        if plugin.name in BUILT_IN or not same:
            raise CodecError(
                f"the codec name {plugin.name!r} is claimed twice",
                where=_described(plugin),
                came=f"the id of {BUILT_IN.get(plugin.name) or _described(other)}",
                hint=f"uninstall {_distribution(plugin)}, or give its codec another id",
            )
    return plugins


def _load(plugin: metadata.EntryPoint) -> type[Codec]:
    distribution = _distribution(plugin)
    try:
        cls = plugin.load()
    except Exception as error:
        raise CodecError(
            f"codec {plugin.name!r} of distribution {distribution} cannot be loaded",
            where=plugin.value,
            came=f"{type(error).__name__}: {error}",
            hint=f"mend or uninstall {distribution}",
        ) from error
    return _checked(cls, plugin.name, _described(plugin))


def _distribution(plugin: metadata.EntryPoint) -> str:
    return plugin.dist.name if plugin.dist is not None else "(unknown)"


def _described(plugin: metadata.EntryPoint) -> str:
    return f"{plugin.value} of distribution {_distribution(plugin)}"


def _checked(cls: Any, name: Any, where: str) -> type[Codec]:
    """`cls`, if it is a codec that keeps to the contract and has the id `name`."""
    from pytest_h2o.codecs.base import Codec  # imports numpy

    fault = None
    if not (inspect.isclass(cls) and issubclass(cls, Codec)):
        fault = "not a subclass of pytest_h2o.codecs.base.Codec"
    elif "__dataclass_fields__" not in vars(cls):  # a base's would leave its own settings out; frozen it must be
        fault = "not a dataclass(frozen=True)"
    elif inspect.isabstract(cls):
        fault = f"without {', '.join(sorted(cls.__abstractmethods__))}"
    elif not isinstance(name, str) or not _ID.fullmatch(name):
        fault = f"with the id {name!r}"
    elif getattr(cls, "id", None) != name:
        fault = f"with the id {getattr(cls, 'id', None)!r}"
    if fault is not None:
        raise CodecError(
            "this is no codec",
            where=where,
            came=f"{getattr(cls, '__name__', repr(cls))}, {fault}",
            expected="a frozen dataclass derived from Codec, with encode, decode and its id ([a-z][a-z0-9_.-]*)",
        )
    checked: type[Codec] = cls
    return checked
