"""``python -m pytest_h2o``: the same as ``pytest-h2o``."""

from pytest_h2o.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
