"""3. Engines: build them, and prove what the builder did."""
