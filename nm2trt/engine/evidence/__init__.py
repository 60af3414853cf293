"""Evidence from an engine library: build logs, inspector JSON, kernel traces."""
