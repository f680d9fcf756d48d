"""The weights of a run that are evaluated and written."""
