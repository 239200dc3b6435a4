"""What a run shows to people: progress while it lasts, charts after it."""
