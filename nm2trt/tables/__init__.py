"""Tables of every command and result, which look the same in a terminal, in a log and in a notebook."""
