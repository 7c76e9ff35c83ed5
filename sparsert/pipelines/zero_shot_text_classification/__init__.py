"""Zero-shot classification: texts by labels that no model was trained for."""
