"""Time sparsert and ONNX Runtime on ONNX files of encoders, in interleaved rounds: one table.

    python scripts/compare_encoders.py FILE ... --shape 8x128 --shape 1x16 [--cores 0,1] [--rounds 7]

Each engine is a process of its own, pinned to the same cores and idle while the other one is measured; files are opened
in turn, both warm up, and every round times both in an order that changes. Texts are full: no padding. Arrays of other
ranks than tokens, such as images, take their sizes from the file and the batch from the shape.

Printed are medians over the rounds in milliseconds, the median of the rounds' ratios (above 1 sparsert is faster), the
share of ops that run in kernels, and the greatest difference of the first output, relative to its greatest number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ENGINES = ("sparsert", "onnxruntime")


def main() -> None:
    """Open each file in both engines, run the rounds, print a line."""
    arguments = parse()
    print("| file | shape | sparsert, ms | onnxruntime, ms | ratio | in kernels | difference |")
    print("|---|---|---|---|---|---|---|")
    worst: list[tuple[float, str]] = []
    for file in arguments.files:
        workers = {name: Worker(name, arguments) for name in ENGINES}
        opened = {name: worker.ask({"do": "open", "file": str(file)}) for name, worker in workers.items()}
        for shape in arguments.shape:
            line = f"| {file.stem} | {shape} |"
            broken = next((f"{name}: {answer['error']}" for name, answer in opened.items() if "error" in answer), None)
            if broken:
                print(f"{line} | | | | {broken[:90]} |", flush=True)
                continue
            batch, tokens = (int(part) for part in shape.split("x"))
            times, difference = compare(workers, batch, tokens, arguments)
            medians = [statistics.median(times[name]) for name in ENGINES]
            ratio = statistics.median(b / a for a, b in zip(*(times[name] for name in ENGINES), strict=True))
            worst.append((ratio, f"{file.stem} {shape}"))
            print(
                f"{line} {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.2f} "
                f"| {opened['sparsert']['kernels']:.2f} | {difference:.0e} |",
                flush=True,
            )
        for worker in workers.values():
            worker.process.kill()
    if worst:
        print(f"least ratio: {min(worst)[0]:.2f} ({min(worst)[1]})", file=sys.stderr)


def compare(
    workers: dict[str, Worker], batch: int, tokens: int, arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each round, and how far the first outputs are apart."""
    results = {}
    for name, worker in workers.items():
        results[name] = worker.ask({"do": "warm", "batch": batch, "tokens": tokens, "seconds": arguments.seconds})
    times: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(arguments.rounds):
        order = list(workers)
        random.Random(number).shuffle(order)
        for name in order:
            times[name].append(workers[name].ask({"do": "time", "seconds": arguments.seconds})["milliseconds"])
    first, second = (results[name]["values"] for name in ENGINES)
    scale = max(abs(value) for value in second) or 1.0
    return times, max(abs(a - b) for a, b in zip(first, second, strict=True)) / scale


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="ONNX files")
    parser.add_argument("--shape", action="append", help="texts x tokens, such as 8x128; may be given several times")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each engine in a round")
    parser.add_argument("--cores", default="0,1", help="cores of both engines")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.shape = arguments.shape or ["8x128"]
    if arguments.worker:
        serve(arguments.worker)
        sys.exit()
    return arguments


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        command = ["taskset", "-c", arguments.cores, sys.executable, __file__, "--worker", name]
        environment = os.environ | {"OMP_NUM_THREADS": str(len(arguments.cores.split(",")))}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("an engine has ended; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(name: str) -> None:
    """Answer the messages of the process that started this one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    runner: Any = None
    feeds: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        reply: dict[str, Any] = {}
        if message["do"] == "open":
            try:
                runner = (Sparsert if name == "sparsert" else OnnxRuntime)(message["file"])
                reply["kernels"] = runner.kernels
            except Exception as error:  # a file that an engine refuses is a result
                reply["error"] = f"{type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")
        elif message["do"] == "warm":
            feeds = make_feeds(runner.inputs, message["batch"], message["tokens"])
            output = runner.run(feeds)
            timed(runner, feeds, message["seconds"])
            reply["values"] = [float(value) for value in output.ravel()[:4096]]
        elif message["do"] == "time":
            reply["milliseconds"] = timed(runner, feeds, message["seconds"])
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def timed(runner: Any, feeds: dict[str, Any], seconds: float) -> float:
    """Milliseconds of a run, the median of as many as fit, at least three."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        runner.run(feeds)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def make_feeds(inputs: list[tuple[str, str, list[Any]]], batch: int, tokens: int) -> dict[str, Any]:
    """Arrays for inputs of (name, type, shape): full masks, random ids that any vocabulary has, random images."""
    import numpy as np

    rng, feeds = np.random.default_rng(0), {}
    for name, kind, shape in inputs:
        if len(shape) != 2:
            array = rng.random([batch, *(int(size) for size in shape[1:])])
        elif "mask" in name:
            array = np.ones((batch, tokens))
        elif "type" in name:
            array = np.zeros((batch, tokens))
        else:
            array = rng.integers(5, 50, (batch, tokens))
        feeds[name] = array.astype(kind)
    return feeds


class Sparsert:
    """The engine of this package."""

    def __init__(self, file: str) -> None:
        from sparsert import Engine

        self.engine = Engine(file, batch_size=None)
        self.kernels = self.engine.fraction_of_supported_ops
        names, kinds, shapes = self.engine.input_names, self.engine.input_types, self.engine.input_shapes
        self.inputs = [(name, str(kind), list(shape)) for name, kind, shape in zip(names, kinds, shapes, strict=True)]

    def run(self, feeds: dict[str, Any]) -> Any:
        """The first output."""
        return self.engine.run(list(feeds.values()), val_inp=False)[0]


class OnnxRuntime:
    """ONNX Runtime on the CPU, with as many threads as there are cores."""

    def __init__(self, file: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        self.kernels = 1.0
        kinds = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float16)": "float16"}
        self.inputs = [
            (value.name, kinds.get(value.type, "float32"), list(value.shape)) for value in self.session.get_inputs()
        ]

    def run(self, feeds: dict[str, Any]) -> Any:
        """The first output."""
        return self.session.run(None, feeds)[0]


if __name__ == "__main__":
    main()
