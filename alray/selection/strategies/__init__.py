"""The strategies, one per file, each after its paper."""
