"""Latency: interleaved timing, its files, the machine's state."""
