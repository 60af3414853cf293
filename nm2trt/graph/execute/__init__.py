"""Running a graph: comparing outputs, bisecting a difference, emulating half precision, probing ranges."""
