"""``python -m pytest_h2o``: the same as ``pytest-h2o``."""

import sys

from pytest_h2o.cli import main

if __name__ == "__main__":
    sys.exit(main())
