"""Analysis of a graph without running it: scopes, constants, weight operands, shapes, Q/DQ islands."""
