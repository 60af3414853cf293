"""What an engine library said: build logs, inspector JSON, kernel traces."""
