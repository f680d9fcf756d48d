"""The checks of tools/gpu_check.py, by what they are about."""
