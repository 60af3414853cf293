"""Engines behind one small protocol; each library is imported by its own module only."""
