"""What all of our own tests share."""

from __future__ import annotations

import os

os.environ["PYTEST_H2O_CACHE_DIR"] = ""  # nothing is left in the cache of whoever runs them; some tests name a folder
