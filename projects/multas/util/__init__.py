"""What every floor uses: names, ranks, files."""
