"""Which rows to label next: strategies, the shards they run on, and selection alone (contracts C4, C5, C9)."""
