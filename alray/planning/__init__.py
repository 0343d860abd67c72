"""What a run will cost, in images, bytes, memory, seconds and money, before it starts."""
