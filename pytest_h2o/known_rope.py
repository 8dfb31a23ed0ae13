"""How K was rotated, as far as the settings of a gate run say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_h2o.codecs.base import Rope

if TYPE_CHECKING:
    from pytest_h2o.options import Given
    from pytest_h2o.scopes import Scope


def find_rope(scope: Scope, base_config: Given) -> Rope | None:
    """The rotation that the scope names, or the model's own config; None where codecs have to find out.

    Raises
    ------
    UsageError
        The base config cannot be read.
    """
    if scope.rope is not None:
        return Rope(scope.rope.theta, scope.rope.pairing)
    if base_config.value is None:
        return None
    from pytest_h2o.bench.config import read_base_config, rope_theta

    theta = rope_theta(read_base_config(base_config.value, base_config.origin))
    return None if theta is None else Rope(theta)
