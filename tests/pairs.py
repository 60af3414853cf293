"""An engine and its manifest, written at once."""

from nm2trt.engine.pair_writer import pair_writer


def write_pair(engine, data, manifest):
    """Write bytes as an engine with a record of them, and return the record as written."""
    with pair_writer(engine, data) as pair:
        pair.manifest = manifest
    return pair.manifest
