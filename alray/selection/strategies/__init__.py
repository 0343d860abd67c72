"""The strategies, one a file: what a reader of a paper looks for."""
