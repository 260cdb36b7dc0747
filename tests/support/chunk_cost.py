"""CPU time of chunks and evaluations of SST-2, old against new in one run, and a worker's memory.

Run as `SST2=DIRECTORY python -m tests.support.chunk_cost`, with SST-2's train.jsonl in the
directory. "Old" is what workers did before: logits at every position, samples padded as they come,
and one forward for each choice of an evaluation.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig, OptimizerConfig, TrainConfig
from runtime.training.samples import EvalSamples, Sampler
from runtime.training.token_rows import TokenRows
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample, read_examples
from runtime.training.training_step import SampleSizes, batch_of, microbatches_of
from tests.support.frozen_models import num_bytes
from tests.support.models import smollm2_directory

NUM_RECORDS, NUM_STEPS, NUM_TESTS = 2000, 6, 32
Batching = Literal["padded", "grouped", "packed"]
Precision = Literal["float32", "bfloat16", "int8", "int4"]
BATCHINGS: tuple[Batching, ...] = ("padded", "grouped", "packed")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "int4")
DATA = DataConfig(
    prompt="Review: {text}\nThis review is",
    completion=" {label}",
    words={"label": ["negative", "positive"]},
    max_length=80,
    batching="padded",
)
JOB = TrainConfig(
    model="smollm2-135m",
    out="run",
    data=DATA,
    optimizer=OptimizerConfig(steps=NUM_STEPS, batch=16, microbatch=4),
)


def with_batching(batching: Batching, microbatch: int = 4) -> TrainConfig:
    """Return the job with another batching."""
    optimizer = replace(JOB.optimizer, microbatch=microbatch)
    return replace(JOB, data=replace(DATA, batching=batching), optimizer=optimizer)


def chunks_of(config: TrainConfig, samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the chunks of the job's steps."""
    sizes = SampleSizes.of(samples)
    num_chunks = -(-config.optimizer.batch // config.optimizer.microbatch)
    return [
        [samples[index] for index in chunk]
        for step in range(NUM_STEPS)
        for chunk in microbatches_of(config, batch_of(config, step, sizes), num_chunks, sizes)
    ]


def real_share(config: TrainConfig, chunks: Sequence[Sequence[Sample]]) -> float:
    """Return which share of the tokens of all forwards is no padding."""
    packed = config.data.batching == "packed"
    rows = [TokenRows.of(chunk, packed=packed).inputs["input_ids"].numel() for chunk in chunks]
    return sum(len(sample.token_ids) for chunk in chunks for sample in chunk) / sum(rows)


def old_gradient(trainable: Trainable, chunk: Sequence[Sample]) -> None:
    """Compute a chunk's gradient by logits at every position."""
    rows = TokenRows.of(chunk, packed=False)
    trainable.model.zero_grad()
    logits = trainable.model(**rows.inputs).logits.float()
    loss = F.cross_entropy(logits[rows.is_learned], rows.learned, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]  # torch's


def old_scores(trainable: Trainable, groups: Sequence[Sequence[Sample]]) -> None:
    """Score every choice in a row of its own, by logits at every position."""
    rows = TokenRows.of([one for group in groups for one in group], packed=False)
    with torch.inference_mode():
        logits = trainable.model(**rows.inputs).logits.float().log_softmax(-1)
        logits[rows.is_learned].gather(1, rows.learned.unsqueeze(1))


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time that work takes in this process."""
    start_s = time.process_time()
    work()
    return time.process_time() - start_s


def compared(old: Sequence[Callable[[], object]], new: Sequence[Callable[[], object]]) -> float:
    """Return the CPU time of new over old; each is done once before, and they take turns."""
    old[0]()
    new[0]()
    times = [0.0, 0.0]
    for number in range(max(len(old), len(new))):
        for which, works in enumerate((old, new)):
            if number < len(works):
                times[which] += cpu_s(works[number])
    return times[1] / times[0]


def print_speed(directory: Path, file: Path) -> None:
    """Print the ratios of CPU time, and the shares of real tokens."""
    tokenizer = Tokenizer.load(directory)
    examples = read_examples(file, DATA, tokenizer, limit=NUM_RECORDS)
    sampler = Sampler.of(directory, tokenizer, DATA.max_length)
    samples = sampler.samples(examples)
    tests = EvalSamples.of(examples[:NUM_TESTS], sampler)
    padded = with_batching("padded")
    old = Trainable.load(directory, padded)
    before: list[Callable[[], object]] = [
        partial(old_gradient, old, chunk) for chunk in chunks_of(padded, samples)
    ]
    print("| batching | microbatch | real tokens | CPU of a step, new / old |")
    print("| --- | --- | --- | --- |")
    for batching, microbatch in (("padded", 4), ("grouped", 4), ("packed", 4), ("packed", 16)):
        config = with_batching(batching, microbatch)  # type: ignore[arg-type]
        chunks = chunks_of(config, samples)
        new = Trainable.load(directory, config)
        after: list[Callable[[], object]] = [partial(new.gradient, chunk) for chunk in chunks]
        share = real_share(config, chunks)
        print(f"| {batching} | {microbatch} | {share:.2f} | {compared(before, after):.2f} |")
    parts = [slice(i, i + 8) for i in range(0, NUM_TESTS, 8)]
    groups = [tests.groups[part] for part in parts]
    ratio = compared(
        [partial(old_scores, old, group) for group in groups],
        [partial(old.scores, group) for group in groups],
    )
    print(f"evaluation, CPU of new / old: {ratio:.2f}")


def print_memory(precision: Precision) -> None:
    """Print what a worker's process holds with a base in a precision: weights, and at its peak."""
    directory = smollm2_directory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainable = Trainable.load(directory, replace(JOB, base_precision=precision))
    weights = num_bytes(trainable.model)
    chunk = [Sample(tuple(range(100, 180)), 79) for _ in range(4)]
    trainable.gradient(chunk)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"| {precision} | {weights / 2**20:.0f} | {(peak - before) / 2**10:.0f} |", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Print all figures; with a precision, only its memory."""
    torch.set_num_threads(1)
    if arguments:
        print_memory(next(one for one in PRECISIONS if one == arguments[0]))
        return
    print_speed(smollm2_directory(), Path(os.environ["SST2"]) / "train.jsonl")
    print("| base | weights, MiB | peak of a worker above its libraries, MiB |")
    print("| --- | --- | --- |", flush=True)
    for precision in PRECISIONS:  # each in a process of its own: a peak never falls
        subprocess.run([sys.executable, "-m", "tests.support.chunk_cost", precision], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
