"""What all of our own tests share."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["PYTEST_H2O_CACHE_DIR"] = ""  # nothing is left in the cache of whoever runs them; some tests name a folder

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
