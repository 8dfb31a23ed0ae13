"""The commands of ``pytest-h2o``, one a module: `add_arguments(parser)` and `run(args) -> exit code`."""
