import pytest

pytest.register_assert_rewrite("battery", "goldens", "sample_streams")
