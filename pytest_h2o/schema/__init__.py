"""How preset and scope files are read: YAML with the place of every key, a closed schema, all faults at once."""
