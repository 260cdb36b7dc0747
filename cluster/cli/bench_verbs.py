"""The bench verbs of the command line."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import (
    Chat,
    ClientCert,
    ClientKey,
    Device,
    Drafter,
    DrafterTp,
    DraftLength,
    Dtype,
    Group,
    IgnoreEos,
    Json,
    Keep,
    LayerParallel,
    Link,
    MaxTokens,
    NumPrompts,
    Place,
    PlaintextToken,
    Prompt,
    Prompts,
    Ray,
    RootCa,
    Seed,
    Server,
    Target,
    Temperature,
    Threads,
    Tls,
    TokenFile,
    TopK,
    TopP,
    Verifier,
    Virtual,
)
from cluster.cli.path_options import input_file, picture
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.bench_options import (
    BenchDecodeOptions,
    BenchLayersOptions,
    BenchLinkOptions,
    BenchServeOptions,
    BenchTrainOptions,
)
from cluster.options.client_options import ConnectOptions
from cluster.options.generate_options import DecodeOptions, PromptOptions
from cluster.options.model_options import ModelOptions
from parallel.decoding.types import DecodeMode, VerifierKind
from runtime.errors import ConfigError

app = Verbs(no_args_is_help=True, help="Measure, side by side in one run.")


@app.command("decode")
def bench_decode(
    *,
    target: Target = None,
    drafter: Drafter = None,
    modes: Annotated[
        str, typer.Option(help="Modes to compare, with commas; the first is the reference.")
    ] = "autoregressive,speculative,pearl",
    tp: Annotated[str, typer.Option(help="Numbers of target ranks to compare, with commas.")] = "1",
    drafter_tp: DrafterTp = None,
    layer_parallel: LayerParallel = "auto",
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
    keep: Keep = None,
    prompt: Prompt = None,
    prompts: Prompts = None,
    num_prompts: NumPrompts = None,
    chat: Chat = False,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    verifier: Verifier = VerifierKind.MATCH,
    draft_length: DraftLength = None,
    virtual: Virtual = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    group: Group = "auto",
    link: Link = "grpc",
    place: Place = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Measure decoding modes side by side, interleaved, on the same prompts and threads.

    Example: paceline bench decode --virtual target=40ms,draft=8ms,alpha=0.8 --draft-length 5
    """
    models = ModelOptions(
        target=target,
        prefix_cache=False,  # each run is to read its prompts
        drafter=drafter,
        drafter_tp=drafter_tp,
        layer_parallel=layer_parallel,
        virtual=virtual,
        dtype=dtype,
        device=device,
        threads=threads,
        group_backend=group,
        link=link,
        place=place,
        max_batch=batch,
        ray_address=ray,
    )
    decode = DecodeOptions(
        mode=DecodeMode.AUTOREGRESSIVE,  # each row has a mode of its own
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
        keep=keep,
        json=json,
    )
    run_verb(table.bench_decode, options)


@app.command("link")
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
    run_verb(table.bench_link, options)


@app.command("layer-parallel")
def bench_layers(
    *,
    target: Target = None,
    drafter: Drafter = None,
    widths: Annotated[
        str, typer.Option(help="Numbers of layers at a time to compare, with commas.")
    ] = "1,2,3,4,5",
    drafters: Annotated[
        str, typer.Option(help="Numbers of drafter ranks to compare, with commas.")
    ] = "1,2",
    mode: Annotated[DecodeMode, typer.Option(help="speculative or pearl.")] = DecodeMode.PEARL,
    first: Annotated[
        int, typer.Option("--from", help="Leave layers before this one, one after the other.")
    ] = 0,
    calibrate: Annotated[
        bool, typer.Option(help="Read fuzzy keys and values again before each draft.")
    ] = True,
    prompt: Prompt = None,
    prompts: Prompts = None,
    num_prompts: NumPrompts = None,
    chat: Chat = False,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    draft_length: DraftLength = None,
    plot: Annotated[
        Path | None, typer.Option(callback=picture, help="Write the comparison to this .png.")
    ] = None,
    virtual: Virtual = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    group: Group = "auto",
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Compare drafters whose layers run several at a time, over several ranks (EasySpec).

    Example: paceline bench layer-parallel --target smollm2-135m --drafter target:layers=0-14
    """
    models = ModelOptions(
        target=target,
        prefix_cache=False,  # each run is to read its prompts
        drafter=drafter,
        virtual=virtual,
        dtype=dtype,
        device=device,
        threads=threads,
        group_backend=group,
        ray_address=ray,
        max_batch=1,
    )
    decode = DecodeOptions(
        mode=mode,
        draft_length=draft_length,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        ignore_eos=True,
    )
    options = BenchLayersOptions(
        models=models,
        decode=decode,
        prompts=PromptOptions(prompt=prompt, prompts=prompts, num_prompts=num_prompts, chat=chat),
        widths=tuple(_whole_number(part, "--widths") for part in widths.split(",")),
        drafters=tuple(_whole_number(part, "--drafters") for part in drafters.split(",")),
        first=first,
        calibrate=calibrate,
        plot=plot,
        json=json,
    )
    run_verb(table.bench_layers, options)


@app.command("train")
def bench_train(
    *,
    workers: Annotated[int, typer.Option(help="Actors.")] = 8,
    schemes: Annotated[
        str, typer.Option(help="Schemes to compare, with commas, as for workers.scheme.")
    ] = "uncoded,frc-1,class-1,cyclic-1,sr-sgc-1-2-1,m-sgc-1-2-2,drop-1,frc-stream,pull",
    stragglers: Annotated[
        str, typer.Option(help="How many times as long stragglers take, with commas, or hang.")
    ] = "1,3,10,hang",
    slow: Annotated[
        float, typer.Option(help="Share of its jobs at which a worker is a straggler.")
    ] = 0.05,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 30,
    batch: Annotated[int, typer.Option(help="Samples of a step.")] = 96,
    step: Annotated[
        float, typer.Option(help="Seconds of a step whose computing is all there is.")
    ] = 0.4,
    patience: Annotated[
        float, typer.Option(help="Late is who takes 1 + patience times what the fastest take.")
    ] = 1.0,
    seed: Seed = 0,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Time training steps under stragglers, by scheme, on actors whose computing is a wait.

    Example: paceline bench train --workers 8 --schemes uncoded,frc-1,pull --stragglers 1,10
    """
    try:
        parts = [part.strip() for part in stragglers.split(",")]
        factors = tuple(float("inf") if part == "hang" else float(part) for part in parts)
    except ValueError as error:
        raise ConfigError(f"--stragglers is {stragglers!r}: write 1,3,10,hang") from error
    if min(factors) < 1 or workers < 1 or steps < 1 or batch < workers or not 0 <= slow < 1:
        raise ConfigError(
            "--stragglers, --workers and --steps must be at least 1, --batch at least the workers, "
            "--slow in [0, 1)"
        )
    if step <= 0 or patience <= 0:
        raise ConfigError("--step and --patience must be above 0")
    options = BenchTrainOptions(
        workers=workers,
        schemes=tuple(name.strip() for name in schemes.split(",")),
        factors=factors,
        slow=slow,
        steps=steps,
        batch=batch,
        step_s=step,
        patience=patience,
        seed=seed,
        ray_address=ray,
        json=json,
    )
    run_verb(table.bench_train, options)


@app.command("serve")
def bench_serve(
    *,
    server: Server = "127.0.0.1:50051",
    prompts: Annotated[
        Path, typer.Option(callback=input_file, help="Prompts file (.jsonl), as for generate.")
    ],
    num_prompts: NumPrompts = None,
    chat: Chat = False,
    clients: Annotated[int, typer.Option(help="Connections that requests are spread over.")] = 4,
    rate: Annotated[
        float,
        typer.Option(
            help="Requests a second, at random times; 0: each client asks again when answered."
        ),
    ] = 0.0,
    requests: Annotated[
        int | None, typer.Option(help="Requests to make; default: each prompt once.")
    ] = None,
    max_tokens: MaxTokens = 64,
    ignore_eos: IgnoreEos = False,
    modes: Annotated[
        str, typer.Option(help="Modes to compare, with commas; default: the server's.")
    ] = "",
    repeats: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 1,
    ttft: Annotated[
        float, typer.Option(help="Goodput counts requests whose first token took no longer (s),")
    ] = 2.0,
    gap: Annotated[
        float, typer.Option(help="and the mean time between whose tokens was no longer (s).")
    ] = 0.2,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(callback=picture, help="Write the comparison to this .png.")
    ] = None,
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
    json: Json = False,
) -> None:
    """Load a running server: waits, goodput, acceptance, what was turned away.

    Example: paceline bench serve --clients 16 --rate 2 --prompts questions.jsonl
    """
    connect = ConnectOptions(
        server=server,
        token_file=token_file,
        root_ca=root_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls=tls,
        plaintext_token=plaintext_token,
    )
    options = BenchServeOptions(
        connect=connect,
        prompts=prompts,
        num_prompts=num_prompts,
        chat=chat,
        clients=clients,
        rate=rate,
        requests=requests,
        max_tokens=max_tokens,
        ignore_eos=ignore_eos,
        modes=tuple(mode.strip() for mode in modes.split(",") if mode.strip()),
        repeats=repeats,
        ttft_s=ttft,
        gap_s=gap,
        seed=seed,
        plot=plot,
        json=json,
    )
    run_verb(table.bench_serve, options)


def _whole_number(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{option} has {text!r}: write whole numbers, as 1,2") from error
