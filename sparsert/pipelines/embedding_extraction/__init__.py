"""Embeddings: a vector for each text."""
