"""Plain values: dataclasses whose code is made when it is first called."""
