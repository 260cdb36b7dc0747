"""The command line. Verbs live in modules of their own, loaded when asked for, so help is quick."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster import cli_draft
from cluster.flags import (
    CacheTokens,
    Chat,
    Device,
    Drafter,
    Drafters,
    DraftLength,
    DraftWait,
    Dtype,
    Group,
    IgnoreEos,
    Json,
    Link,
    MaxBatch,
    MaxTokens,
    MinP,
    NumPrompts,
    Penalty,
    Prompt,
    Prompts,
    Ray,
    Seed,
    Stop,
    Target,
    Temperature,
    Threads,
    TokenFile,
    TopK,
    TopP,
    Tp,
    Verifier,
    Virtual,
)
from cluster.options import (
    BenchDecodeOptions,
    BenchLinkOptions,
    ClientOptions,
    DecodeOptions,
    GenerateOptions,
    ModelOptions,
    PromptOptions,
    ServeOptions,
)
from cluster.verbs import run_verb
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
app.add_typer(cli_draft.app, name="draft")


@app.command()
def generate(
    *,
    target: Target = None,
    drafter: Drafter = None,
    mode: Annotated[
        str,
        typer.Option(help="autoregressive, speculative, pearl, or auto: what suits the drafter."),
    ] = "auto",
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
    run_verb("cluster.generate", options)


@app.command()
def serve(
    *,
    target: Target = None,
    drafter: Drafter = None,
    mode: Annotated[
        str, typer.Option(help="Where a request names none: autoregressive, speculative, pearl.")
    ] = "auto",
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = (
        "127.0.0.1:50051"
    ),
    token_file: TokenFile = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Let in only clients with a certificate of this authority.")
    ] = None,
    reflection: Annotated[bool, typer.Option(help="Let clients ask for the protocol.")] = True,
    max_open: Annotated[int, typer.Option(help="Requests queued or running at most.")] = 256,
    drain: Annotated[
        float, typer.Option(help="Seconds that running requests get to finish on SIGTERM.")
    ] = 30.0,
    traffic: Annotated[
        Path | None,
        typer.Option(
            help="Keep requests and answers in this directory, for draft train --follow to learn "
            "from; only you can read them."
        ),
    ] = None,
    max_tokens: MaxTokens = 256,
    tp: Tp = 1,
    drafters: Drafters = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    group: Group = "auto",
    link: Link = "grpc",
    max_batch: MaxBatch = 16,
    cache_tokens: CacheTokens = None,
    draft_wait: DraftWait = 1.0,
    ray: Ray = None,
) -> None:
    """Serve generation over gRPC, with health and reflection, until SIGTERM.

    Example: paceline serve --target smollm2-135m --listen 127.0.0.1:50051
    """
    models = ModelOptions(
        target=target,
        drafter=drafter,
        tp=tp,
        drafters=drafters,
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
    options = ServeOptions(
        models=models,
        mode=mode,
        max_tokens=max_tokens,
        listen=listen,
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        reflection=reflection,
        max_open=max_open,
        drain_s=drain,
        traffic=traffic,
    )
    run_verb("cluster.serve", options)


@app.command()
def client(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    *,
    server: Annotated[str, typer.Option(help="HOST:PORT of a paceline serve.")] = (
        "127.0.0.1:50051"
    ),
    chat: Chat = False,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the best of this mass.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same tokens.")] = None,
    stop: Stop = None,
    mode: Annotated[str | None, typer.Option(help="autoregressive, speculative, pearl.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for the whole answer.")] = None,
    token_file: TokenFile = None,
    root_ca: Annotated[
        Path | None, typer.Option(help="Authority of the server's certificate; turns TLS on.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of this client, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    json: Json = False,
) -> None:
    """Generate from a server.

    Example: paceline client --chat "Why is the sky blue?"
    """
    options = ClientOptions(
        server=server,
        prompt=prompt,
        chat=chat,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
        mode=mode,
        timeout_s=timeout,
        token_file=token_file,
        root_ca=root_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        json=json,
    )
    run_verb("cluster.client", options)


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
        typer.Option(
            help="Also measure transformers' generate(), in the first rows: transformers, or "
            "transformers-lookup (its prompt lookup), or both with a comma."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Interleaved repetitions; medians are shown.")] = 3,
    batch: Annotated[int, typer.Option(help="Prompts in flight at once.")] = 1,
    by_category: Annotated[
        bool, typer.Option("--by-category", help="Also compare by the category of the prompts.")
    ] = False,
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
        mode="autoregressive",  # each row has a mode of its own
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
        baselines=tuple(baseline.split(",")) if baseline else (),
        by_category=by_category,
        json=json,
    )
    run_verb("cluster.bench_decode", options)


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
    run_verb("cluster.bench_link", options)


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
