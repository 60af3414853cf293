"""The options of every command: one frozen dataclass each, which makes command line, recipe and record."""
