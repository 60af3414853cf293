"""Post-training N:M from samples: masks and values solved layer by layer against the dense network."""
