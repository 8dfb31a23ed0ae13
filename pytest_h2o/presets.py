"""Preset files, YAML or JSON, to checked presets.

A fault names file, line, column and key, what came, what was expected and, for an unknown key, the nearest known
one; all faults of all files come in one `PresetError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.preset_model import SWEPT_KEYS, PresetKeys, Targets
from pytest_h2o.schema.assignments import merge_settings, name_option, parse_assignments, parse_setting
from pytest_h2o.schema.checking import check_source
from pytest_h2o.schema.field_types import check_name
from pytest_h2o.schema.yaml_source import Source, read_source

__all__ = ["SWEPT_KEYS", "Preset", "Targets", "find_preset_files", "load_preset", "load_presets", "preset_from_flags"]

SUFFIXES = (".yaml", ".yml", ".json")


class Preset(PresetKeys):
    """A checked preset: the keys of its file, its name and where it came from.

    Attributes
    ----------
    name : str
        Stem of the file; ``adhoc`` for a grid given on the command line.
    path : Path or None
        The file as it was named.
    """

    name: str
    path: Path | None = None

    def override(self, *assignments: str) -> Preset:
        """A copy with ``KEY=VALUE`` settings, checked like a file.

        KEY may be dotted (``targets.lossy=3.1``), a swept key takes values separated by commas. Paths are relative
        to the working directory.

        Raises
        ------
        PresetError
            With every fault, each naming the option that brought it.
        """
        settings = parse_assignments(PresetKeys, assignments)
        data = self.model_dump(exclude_unset=True, exclude={"name", "path"})
        single, many = ("h2o_target_lossy_ratio",), ("h2o_target_lossy_ratios",)
        if single in settings and many not in settings and many[0] in data:
            raise name_option(
                PresetError.from_faults([_no_effect(settings[single])]), assignments, f"preset {self.name}"
            )
        if many in settings and single not in settings:
            data.pop(single[0], None)
        try:
            checked = check_source(PresetKeys, Source("", merge_settings(data, settings)))
        except PresetError as error:
            raise name_option(error, assignments, f"preset {self.name}") from None
        return _preset(checked, self.name, self.path)


def _no_effect(value: Any) -> Fault:
    hint = f"set h2o_target_lossy_ratios={value}"
    return Fault("has no effect: the preset has h2o_target_lossy_ratios", "", "h2o_target_lossy_ratio", hint=hint)


def _preset(keys: PresetKeys, name: str, path: Path | None) -> Preset:
    # The keys are checked already, and a file must not be able to set name and path.
    values: Mapping[str, Any] = dict(keys)
    return Preset.model_construct(keys.model_fields_set | {"name", "path"}, **values, name=name, path=path)


def load_preset(path: str | Path) -> Preset:
    """Read and check one preset file.

    Raises
    ------
    PresetError
        With every fault of the file. Besides what `read_source` refuses: an unknown key, a wrong type, a value out of
        range, an empty or repeated dimension value, a grid of too many points, a name that ``-k`` cannot select.
    """
    path = Path(path)
    source = read_source(path)
    if expected := check_name(path.stem):
        fault = Fault("the file name cannot name a test item", str(path), came=path.stem, expected=expected)
        source = Source(source.name, source.data, source.places, source.key_places, (*source.faults, fault))
    return _preset(check_source(PresetKeys, source, path.parent), path.stem, path)


def load_presets(paths: Iterable[str | Path]) -> tuple[Preset, ...]:
    """Read and check preset files, and all those in folders and their subfolders.

    Returns
    -------
    tuple of Preset
        Ordered by path, component by component, as plain strings. A file that is named twice comes once.

    Raises
    ------
    PresetError
        With every fault of all the files; two presets of one name, or a folder without a preset, are faults.
    """
    presets: dict[str, Preset] = {}
    faults: list[Fault] = []
    for path in find_preset_files(paths):
        try:
            preset = load_preset(path)
        except PresetError as error:
            faults += error.faults
            continue
        if other := presets.get(preset.name):
            what = f"a second preset named {preset.name}"
            faults.append(Fault(what, str(path), came=f"the first one is {other.path}", expected="one preset a name"))
        presets.setdefault(preset.name, preset)
    if faults:
        raise PresetError.from_faults(faults)
    return tuple(presets.values())


def find_preset_files(paths: Iterable[str | Path]) -> list[Path]:
    """Preset files that `paths` name, ordered by path; in folders by suffix, names with a leading dot left out.

    Raises
    ------
    PresetError
        A folder has none.
    """
    found: dict[Path, Path] = {}
    faults: list[Fault] = []
    for path in map(Path, paths):
        files = list(_files_below(path)) if path.is_dir() else [path]
        if not files:
            faults.append(Fault("no preset in this folder", str(path), expected=f"a file {', '.join(SUFFIXES)}"))
        for file in files:
            found.setdefault(file.resolve(), file)
    if faults:
        raise PresetError.from_faults(faults)
    return sorted(found.values(), key=lambda path: path.parts)


def _files_below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in names if name.endswith(SUFFIXES) and not name.startswith("."))


def preset_from_flags(**values: Any) -> Preset:
    """A preset of a grid given on a command line, named ``adhoc``.

    Parameters
    ----------
    **values
        Keys of a preset. Text is read as on a command line (``"8,16"`` for a swept key), None is a flag not given;
        paths are relative to the working directory.

    Raises
    ------
    PresetError
        With every fault, its key that of a preset.
    """
    given = {key: value for key, value in values.items() if value is not None}
    data = {key: parse_setting(PresetKeys, (key,), v) if isinstance(v, str) else v for key, v in given.items()}
    return _preset(check_source(PresetKeys, Source("command line", data)), "adhoc", None)
