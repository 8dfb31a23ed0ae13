"""What the tests of a run share with those of the bench: launches of the fake bench."""

from __future__ import annotations

from tests.bench.conftest import _own_machine_lock, count_launches, make_launcher

__all__ = ["_own_machine_lock", "count_launches", "make_launcher"]
