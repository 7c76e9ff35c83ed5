"""How a plan runs: compiled kernels, from the vector vocabulary up to the run loop."""
