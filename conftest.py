"""Configuration of our own tests only; the plugin itself comes by its entry point."""

pytest_plugins = ["pytester"]
