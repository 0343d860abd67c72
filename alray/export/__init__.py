"""What a run gives away: its model, as files that other programs load, and its labeled images."""
