"""What an error says."""

from collections.abc import Callable

import pytest


def error_text(kind: type[Exception], act: Callable[..., object], *given: object, **named: object) -> str:
    """The whole text of the error that a call ends in."""
    with pytest.raises(kind) as caught:
        act(*given, **named)
    return str(caught.value)
