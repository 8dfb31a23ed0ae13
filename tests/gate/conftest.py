"""What is decided here is computed here: nothing comes from a cache that an earlier run of the process has filled."""

import pytest

from pytest_h2o.gate.sequential import make_plan, signed_rank_tail


@pytest.fixture(autouse=True, scope="session")
def _fresh_plans() -> None:
    make_plan.cache_clear()
    signed_rank_tail.cache_clear()
