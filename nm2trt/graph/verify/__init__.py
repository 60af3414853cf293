"""N:M verdicts per weight: group counts, the plan in the metadata, mask lineage."""
