"""The functions behind the public names, one module each; the only unit that knows the whole order.

    sparsify -> export -> (fuse, prune) -> verify -> build -> validate -> deploy -> probe

Stages do not import one another: here they are called in turn, and hand over files and values.
"""
