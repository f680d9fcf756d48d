"""The teacher, its cache, and mean teachers."""
