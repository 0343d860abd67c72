"""Models: a timm backbone with a linear head, and the import of self-supervised weights."""
