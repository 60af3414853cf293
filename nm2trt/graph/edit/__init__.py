"""Changing a graph in memory: the editor and the node inserter that every pass uses."""
