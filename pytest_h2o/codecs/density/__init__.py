"""Words coded one by one under a predicted density: the parts of ``rowref_max``."""
