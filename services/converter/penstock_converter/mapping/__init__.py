"""What becomes what: the mapping, its presets, and paths into messages."""
