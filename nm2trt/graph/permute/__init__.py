"""Channel permutations that leave the network's function as it is and let N:M keep more of its weights."""
