"""What can be found wrong with a run before it costs time."""
