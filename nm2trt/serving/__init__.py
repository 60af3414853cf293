"""Model repositories of Triton: configurations, placement, a server of one's own, and probes."""
