"""Training: fine-tuning with Ray Train, a linear head on cached embeddings, and the numbers that judge them."""
