"""Training steps: all that fills ``.grad``."""
