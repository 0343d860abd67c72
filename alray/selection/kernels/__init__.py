"""The exact arithmetic under the strategies: bounds that filter, and float64 values that decide."""
