"""Answers of the question-answering pipeline of transformers 4, run by a Python that has it, torch and onnxruntime.

Reads ``{"model": directory, "options": {...}, "questions": [{"question", "context"}]}`` from stdin. Writes a list of
answers for each question to ``answers.json`` in the directory that the first argument names, and what the model saw and
said to ``logits.npz``. The model is the ONNX file, run by ONNX Runtime: tokenizing, windows and scoring are the
pipeline's own.
"""

import json
import sys
from pathlib import Path

import onnxruntime
import torch
from recording import Recording
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, QuestionAnsweringPipeline


def main() -> None:
    request = json.load(sys.stdin)
    directory = Path(request["model"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}

    recording = Recording()

    def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        feeds = {name: value.numpy() for name, value in inputs.items() if name in names}
        start, end = session.run(["start_logits", "end_logits"], feeds)
        recording.add(feeds["input_ids"], feeds["attention_mask"], start, end)
        return {"start_logits": torch.from_numpy(start), "end_logits": torch.from_numpy(end)}

    model = BertForQuestionAnswering(
        BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    )
    model.forward = forward
    pipeline = QuestionAnsweringPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(directory))
    answers = []
    for item in request["questions"]:
        try:
            found = pipeline(question=item["question"], context=item["context"], **request["options"])
            answers.append(found if isinstance(found, list) else [found])
        except BaseException as error:  # a Rust panic is no Exception
            answers.append([{"error": f"{type(error).__name__}: {error}"}])
    folder = Path(sys.argv[1])
    (folder / "answers.json").write_text(json.dumps(answers))
    recording.save(folder / "logits.npz")


if __name__ == "__main__":
    main()
