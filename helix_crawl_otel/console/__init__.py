"""What a run shows in a terminal, in the words for people and as JSON."""
