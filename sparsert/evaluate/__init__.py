"""Accuracy of a model on a question-answering dataset, by the published metrics of SQuAD."""
