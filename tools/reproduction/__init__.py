"""The parts of tools/reproduce.py: which rows a table has, their trainings, and the report."""
