"""FP16 and BF16 in the graph: what is cast, what stays in fp32 and why."""
