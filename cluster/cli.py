"""The command line. Verbs live in modules of their own, loaded when asked for, so help is quick."""

import importlib
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.options import (
    BenchDecodeOptions,
    BenchLinkOptions,
    DecodeOptions,
    GenerateOptions,
    ModelOptions,
    PromptOptions,
)
from runtime.errors import ConfigError, PacelineError

_EXIT_BAD_INPUT = 2
_EXIT_FAILURE = 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Generation in which drafting and verification overlap, exact at every temperature.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure, side by side in one run.")
app.add_typer(bench, name="bench")

Target = Annotated[
    str | None,
    typer.Option(
        help="The model: a Hugging Face directory, a GGUF file, a hub id, or smollm2-135m."
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        help="Who drafts: a model with the target's tokenizer, target:layers=0-3,28-29 (the target "
        "cut to these layers), or ngram (copies from prompt and output). Default: ngram."
    ),
]
Tp = Annotated[int, typer.Option(help="Target ranks the model is split over.")]
Drafters = Annotated[int, typer.Option(help="Drafter ranks the drafter is split over.")]
Virtual = Annotated[
    str | None,
    typer.Option(
        help="Virtual devices in place of models: target=40ms,draft=8ms,alpha=0.8"
        "[,position=1ms][,vocab=1024][,seed=0]."
    ),
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of each model rank; default: the cores shared out.")
]
Group = Annotated[str, typer.Option(help="Exchange between ranks: auto, shm, gloo or nccl.")]
Link = Annotated[str, typer.Option(help="Between leader and drafter: grpc, gloo or nccl.")]
MaxBatch = Annotated[int, typer.Option(help="Prompts decoded at once.")]
CacheTokens = Annotated[
    int | None, typer.Option(help="Tokens the KV cache holds; default: what the prompts need.")
]
DraftWait = Annotated[
    float, typer.Option(help="Seconds a round waits for a late draft before going on without it.")
]
Ray = Annotated[
    str | None, typer.Option(help="Ray address to join (auto, HOST:PORT); default: a local Ray.")
]
Verifier = Annotated[
    str,
    typer.Option(
        help="match: tokens depend on target and seed alone. rejection: accepts more, tokens "
        "depend on the drafts too. Both keep the target's distribution exactly."
    ),
]
DraftLength = Annotated[
    int | None, typer.Option(help="Draft tokens a round; default: chosen from measured speed.")
]
MaxTokens = Annotated[int, typer.Option(help="Longest output of a prompt, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Sample among the k best tokens; 0 is off.")]
TopP = Annotated[float, typer.Option(help="Sample among the best tokens of this mass; 1 is off.")]
MinP = Annotated[float, typer.Option(help="Drop tokens below this share of the best; 0 is off.")]
Penalty = Annotated[float, typer.Option(help="Repetition penalty; 1 is off.")]
Seed = Annotated[int, typer.Option(help="Same seed, same tokens, in every mode and batch.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end token.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this string; repeatable.")]
Prompt = Annotated[str | None, typer.Option(help="The prompt itself.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="A .jsonl file with a prompt a line: prompt, text, question, turns or messages."
    ),
]
NumPrompts = Annotated[int | None, typer.Option(help="Take only the first prompts of the file.")]
Chat = Annotated[bool, typer.Option("--chat", help="Wrap prompts in the model's chat template.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


@app.command()
def generate(
    *,
    target: Target = None,
    drafter: Drafter = None,
    mode: Annotated[str, typer.Option(help="autoregressive, speculative or pearl.")] = "pearl",
    tp: Tp = 1,
    drafters: Drafters = 1,
    prompt: Prompt = None,
    prompts: Prompts = None,
    num_prompts: NumPrompts = None,
    chat: Chat = False,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = 0,
    verifier: Verifier = "match",
    draft_length: DraftLength = None,
    ignore_eos: IgnoreEos = False,
    stop: Stop = None,
    virtual: Virtual = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    group: Group = "auto",
    link: Link = "grpc",
    max_batch: MaxBatch = 16,
    cache_tokens: CacheTokens = None,
    draft_wait: DraftWait = 1.0,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Generate text, drafting and verifying at the same time.

    Example: paceline generate --target smollm2-135m --chat --prompt "Why is the sky blue?"
    """
    models = ModelOptions(
        target=target,
        drafter=drafter,
        tp=tp,
        drafters=drafters,
        virtual=virtual,
        dtype=dtype,
        device=device,
        threads=threads,
        group_backend=group,
        link=link,
        max_batch=max_batch,
        cache_tokens=cache_tokens,
        draft_wait_s=draft_wait,
        ray_address=ray,
    )
    decode = DecodeOptions(
        mode=mode,
        verifier=verifier,
        draft_length=draft_length,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        ignore_eos=ignore_eos,
        stop=tuple(stop or ()),
    )
    source = PromptOptions(prompt=prompt, prompts=prompts, num_prompts=num_prompts, chat=chat)
    options = GenerateOptions(models=models, decode=decode, prompts=source, json=json)
    _run("cluster.generate", options)


@bench.command("decode")
def bench_decode(
    *,
    target: Target = None,
    drafter: Drafter = None,
    modes: Annotated[
        str, typer.Option(help="Modes to compare, with commas; the first is the reference.")
    ] = "autoregressive,speculative,pearl",
    tp: Annotated[str, typer.Option(help="Numbers of target ranks to compare, with commas.")] = "1",
    drafters: Drafters = 1,
    baseline: Annotated[
        str | None,
        typer.Option(help="transformers: also measure its generate(), as the first row."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Interleaved repetitions; medians are shown.")] = 3,
    batch: Annotated[int, typer.Option(help="Prompts in flight at once.")] = 1,
    prompt: Prompt = None,
    prompts: Prompts = None,
    num_prompts: NumPrompts = None,
    chat: Chat = False,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    verifier: Verifier = "match",
    draft_length: DraftLength = None,
    virtual: Virtual = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    group: Group = "auto",
    link: Link = "grpc",
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Measure decoding modes side by side, interleaved, on the same prompts and threads.

    Example: paceline bench decode --virtual target=40ms,draft=8ms,alpha=0.8 --draft-length 5
    """
    models = ModelOptions(
        target=target,
        drafter=drafter,
        drafters=drafters,
        virtual=virtual,
        dtype=dtype,
        device=device,
        threads=threads,
        group_backend=group,
        link=link,
        max_batch=batch,
        ray_address=ray,
    )
    decode = DecodeOptions(
        verifier=verifier,
        draft_length=draft_length,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        ignore_eos=True,
    )
    source = PromptOptions(prompt=prompt, prompts=prompts, num_prompts=num_prompts, chat=chat)
    options = BenchDecodeOptions(
        models=models,
        decode=decode,
        prompts=source,
        modes=tuple(modes.split(",")),
        tps=tuple(_whole_number(part, "--tp") for part in tp.split(",")),
        repeats=repeats,
        batch=batch,
        baseline=baseline,
        json=json,
    )
    _run("cluster.bench_decode", options)


@bench.command("link")
def bench_link(
    *,
    count: Annotated[int, typer.Option(help="Round trips over each link.")] = 2000,
    gap_ms: Annotated[
        float, typer.Option(help="Pause between two round trips; 40 is like a round's.")
    ] = 0.0,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Measure a message's round trip between two processes, over each kind of link.

    Example: paceline bench link --count 200 --gap-ms 40
    """
    options = BenchLinkOptions(count=count, gap_ms=gap_ms, ray_address=ray, json=json)
    _run("cluster.bench_link", options)


def main() -> None:
    """Run the command line; bad input exits with 2, a failure with 1."""
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        app()
    except ConfigError as error:
        _complain(error)
        sys.exit(_EXIT_BAD_INPUT)
    except PacelineError as error:
        _complain(error)
        sys.exit(_EXIT_FAILURE)


def _run(module: str, options: object) -> None:
    """Load a verb's module and run it; a non-zero result is the exit code."""
    code = importlib.import_module(module).run(options)
    if code:
        raise typer.Exit(code)


def _whole_number(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{option} has {text!r}: write whole numbers, as 1,2") from error


def _complain(error: PacelineError) -> None:
    Console(stderr=True, highlight=False).print(f"[red]error:[/] {error}", soft_wrap=True)


def _on_terminate(signum: int, frame: object) -> None:  # noqa: ARG001
    sys.exit(128 + signum)  # unwinds, so actors and a local Ray end


if __name__ == "__main__":
    main()
