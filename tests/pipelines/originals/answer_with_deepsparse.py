"""Answers of DeepSparse 1.8's own question-answering pipeline, run by a Python that has it.

Reads ``{"model": directory, "options": {...}, "questions": [{"question", "context"}]}`` from stdin. Writes a list of
answers to ``answers.json`` in the directory that the first argument names, and what its model saw and said to
``logits.npz``.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from deepsparse import Pipeline
from recording import Recording


def main() -> None:
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        # A copy: DeepSparse writes the sequence length into the model's file.
        model = Path(folder) / "model"
        shutil.copytree(request["model"], model)
        pipeline = Pipeline.create(
            "question-answering", model_path=str(model), engine_type="onnxruntime", **request["options"]
        )
        recording = Recording()
        run = pipeline.engine_forward
        names = list(pipeline.onnx_input_names)

        def forward(arrays: list[np.ndarray], *args: object, **kwargs: object) -> list[np.ndarray]:
            start, end = run(arrays, *args, **kwargs)
            recording.add(arrays[names.index("input_ids")], arrays[names.index("attention_mask")], start, end)
            return [start, end]

        pipeline.engine_forward = forward
        answers = []
        for item in request["questions"]:
            try:
                answers.append(dict(pipeline(question=item["question"], context=item["context"])))
            except BaseException as error:  # a Rust panic is no Exception
                answers.append({"error": f"{type(error).__name__}: {error}"})
    folder = Path(sys.argv[1])
    (folder / "answers.json").write_text(json.dumps(answers))
    recording.save(folder / "logits.npz")


if __name__ == "__main__":
    main()
