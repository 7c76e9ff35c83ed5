"""``python -m sparsert.embed``: embeddings of the texts of a file or pipe."""
