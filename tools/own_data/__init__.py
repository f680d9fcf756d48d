"""From the data of a user to a distilled student: what tools/distill.py and the quickstart do."""
