"""Classes of other libraries on top of this engine, a file a library, each imported by its own name alone."""
