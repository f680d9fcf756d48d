"""Finding out what data set lies in a folder, and the card that describes it."""
