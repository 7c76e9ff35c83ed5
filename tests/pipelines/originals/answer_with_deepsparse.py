"""Answers of DeepSparse 1.8's own question-answering pipeline, run by a Python that has it.

Reads ``{"model": directory, "engine_type": ..., "options": {...}, "questions": [{"question", "context"}]}`` from stdin
and writes to the file named by the first argument a list of answers, with the n-best list of each (DeepSparse's dump).
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from deepsparse import Pipeline


def main() -> None:
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        # A copy: DeepSparse writes the sequence length into the model's file.
        model = Path(folder) / "model"
        shutil.copytree(request["model"], model)
        pipeline = Pipeline.create(
            "question-answering", model_path=str(model), engine_type=request["engine_type"], **request["options"]
        )
        answers = []
        for item in request["questions"]:
            try:
                answers.append(dict(pipeline(question=item["question"], context=item["context"])))
            except BaseException as error:  # a Rust panic is no Exception
                answers.append({"error": f"{type(error).__name__}: {error}"})
    Path(sys.argv[1]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
