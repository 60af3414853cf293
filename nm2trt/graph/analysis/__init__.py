"""What a graph means without running it: scopes, constants, weight operands, shapes, Q/DQ islands."""
