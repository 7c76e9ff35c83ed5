"""Token classification: the pieces of a text that are names, places or whatever else a model has labels for."""
