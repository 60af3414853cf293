"""INT8 and FP8 by Q/DQ nodes: ranges, placement, number formats, report."""
