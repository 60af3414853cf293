"""How far two sets of outputs differ, and how far they may, by dtype."""
