"""Splits of a data set: making and checking lists of image ids."""
