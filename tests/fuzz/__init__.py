"""Bytes of any kind against every reader of this project: see `targets`."""
