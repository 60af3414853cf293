"""The ladder: one row per weight from pattern to measured gain, and what a build requires of it."""
