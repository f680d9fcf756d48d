"""What turns the losses of a step into gradients."""
