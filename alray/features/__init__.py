"""Embeddings and logits: what a shard holds, how they are stored, and how they are extracted."""
