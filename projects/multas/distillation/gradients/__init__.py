"""Inner products of path gradients, and the weights that follow from them."""
