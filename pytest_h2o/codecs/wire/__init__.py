"""How the parts of a payload lie in bytes: numbers, positions, rotations, headers."""
