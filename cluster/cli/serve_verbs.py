"""The verbs of the gRPC service: serve, and what one does with a server."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import (
    CacheTokens,
    Chat,
    ClientCert,
    ClientKey,
    Device,
    Drafter,
    DrafterTp,
    DraftWait,
    Dtype,
    Group,
    Json,
    LayerParallel,
    Link,
    MaxBatch,
    MaxTokens,
    Place,
    PlaintextToken,
    Ray,
    RootCa,
    Server,
    Stop,
    Target,
    Threads,
    Tls,
    TokenFile,
    Tp,
)
from cluster.cli.path_options import input_file, output_directory
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.client_options import AdminOptions, ClientOptions, ConnectOptions, TopOptions
from cluster.options.model_options import ModelOptions
from cluster.options.serve_options import ServeOptions
from runtime.errors import ConfigError
from runtime.files.documents import read_toml

admin = Verbs(no_args_is_help=True, help="Run a server: status, draining, its drafter.")


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Let a TOML file name values for the options; the command line goes before it."""
    if path is None:
        return None
    found = read_toml(path, kind="--config")
    names = {parameter.name for parameter in context.command.params if parameter.name != "config"}
    values = {key.replace("-", "_"): value for key, value in found.items()}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"--config {path}: {unknown[0]!r} is no option of {context.info_name}; write option "
            'names without the dashes before them, as listen = "127.0.0.1:50051"'
        )
    context.default_map = values
    return path


def serve(
    *,
    config: Annotated[  # noqa: ARG001  (its callback has taken it in)
        Path | None,
        typer.Option(
            callback=_take_config,
            is_eager=True,
            help="TOML file with values for these options, as listen = "
            '"127.0.0.1:50051"; the command line goes before it.',
        ),
    ] = None,
    target: Target = None,
    drafter: Drafter = None,
    mode: Annotated[
        str, typer.Option(help="Where a request names none: autoregressive, speculative, pearl.")
    ] = "auto",
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = (
        "127.0.0.1:50051"
    ),
    token_file: TokenFile = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            callback=input_file,
            help="Bearer tokens, one a line, that may drain the server and change its drafter; "
            "default: those of --token-file.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(callback=input_file, help="Certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(callback=input_file, help="Its private key, PEM.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            callback=input_file, help="Let in only clients with a certificate of this authority."
        ),
    ] = None,
    reflection: Annotated[bool, typer.Option(help="Let clients ask for the protocol.")] = True,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT of a page for Prometheus, at /metrics.")
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="text, or json: one object a line, with the request's id.")
    ] = "text",
    max_open: Annotated[int, typer.Option(help="Requests queued or running at most.")] = 256,
    max_open_per_client: Annotated[
        int, typer.Option(help="Of these, as many by one client at most.")
    ] = 64,
    drain: Annotated[
        float, typer.Option(help="Seconds that running requests get to finish on SIGTERM.")
    ] = 30.0,
    traffic: Annotated[
        Path | None,
        typer.Option(
            callback=output_directory,
            help="Keep requests and answers in this directory, for draft train --follow to learn "
            "from; only you can read them.",
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            callback=output_directory,
            help="Keep named requests in this directory, so that clients can go on with them after "
            "this process was killed and started anew.",
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            help="Targets side by side; a request goes where most of its prompt was read before."
        ),
    ] = 1,
    restarts: Annotated[
        int,
        typer.Option(help="Times in ten minutes that a lost target, or drafter, is started anew."),
    ] = 5,
    step_limit: Annotated[
        float, typer.Option(help="Seconds after which a rank that does not get on is replaced.")
    ] = 30.0,
    max_tokens: MaxTokens = 256,
    tp: Tp = 1,
    drafter_tp: DrafterTp = None,
    drafter_groups: Annotated[
        str,
        typer.Option(
            help="Drafters side by side for each target, each with requests of its own: N, or "
            "MIN:MAX for `admin drafters` to choose from."
        ),
    ] = "1",
    layer_parallel: LayerParallel = "auto",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    group: Group = "auto",
    link: Link = "grpc",
    place: Place = None,
    max_batch: MaxBatch = 16,
    cache_tokens: CacheTokens = None,
    prefix_cache: Annotated[
        bool, typer.Option(help="Let requests share the cache of what they have in common.")
    ] = True,
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
        drafter_tp=drafter_tp,
        layer_parallel=layer_parallel,
        dtype=dtype,
        device=device,
        threads=threads,
        group_backend=group,
        link=link,
        place=place,
        max_batch=max_batch,
        cache_tokens=cache_tokens,
        prefix_cache=prefix_cache,
        draft_wait_s=draft_wait,
        ray_address=ray,
    )
    options = ServeOptions(
        models=models,
        mode=mode,
        max_tokens=max_tokens,
        listen=listen,
        token_file=token_file,
        admin_token_file=admin_token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        reflection=reflection,
        metrics=metrics,
        log_format=log_format,
        max_open=max_open,
        max_open_per_client=max_open_per_client,
        drain_s=drain,
        journal=journal,
        replicas=replicas,
        restarts=restarts,
        step_limit_s=step_limit,
        drafter_groups=drafter_groups,
        traffic=traffic,
    )
    run_verb(table.serve, options)


def client(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    *,
    server: Server = "127.0.0.1:50051",
    chat: Chat = False,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the best of this mass.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same tokens.")] = None,
    stop: Stop = None,
    mode: Annotated[str | None, typer.Option(help="autoregressive, speculative, pearl.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Samples of the prompt.")] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="Likeliest tokens to report a place; needs --json.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Higher is served first; -100 to 100.")] = 0,
    timeout: Annotated[float | None, typer.Option(help="Seconds for the whole answer.")] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="Seconds to wait for a server that is away, 120 unless set."),
    ] = None,
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
    json: Json = False,
) -> None:
    """Generate from a server.

    Example: paceline client --chat "Why is the sky blue?"
    """
    options = ClientOptions(
        connect=_connect(server, token_file, root_ca, tls_cert, tls_key, tls, plaintext_token),
        prompt=prompt,
        chat=chat,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
        mode=mode,
        n=n,
        logprobs=logprobs,
        priority=priority,
        timeout_s=timeout,
        patience_s=patience,
        json=json,
    )
    run_verb(table.client, options)


def top(
    *,
    server: Server = "127.0.0.1:50051",
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
    json: Json = False,
) -> None:
    """Watch a server: requests, tokens a second, acceptance, overlap, cache.

    Example: paceline top --server 127.0.0.1:50051
    """
    connect = _connect(server, token_file, root_ca, tls_cert, tls_key, tls, plaintext_token)
    run_verb(table.top, TopOptions(connect=connect, interval_s=interval, once=once, json=json))


@admin.command("status")
def admin_status(
    *,
    server: Server = "127.0.0.1:50051",
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
    json: Json = False,
) -> None:
    """Show what a server does now, as one look of `paceline top`.

    Example: paceline admin status --json
    """
    connect = _connect(server, token_file, root_ca, tls_cert, tls_key, tls, plaintext_token)
    run_verb(table.top, TopOptions(connect=connect, interval_s=1.0, once=True, json=json))


@admin.command("drain")
def admin_drain(
    *,
    server: Server = "127.0.0.1:50051",
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
) -> None:
    """Let a server finish what runs, refuse what is new, and end."""
    connect = _connect(server, token_file, root_ca, tls_cert, tls_key, tls, plaintext_token)
    run_verb(table.admin, AdminOptions(connect=connect, action="drain"))


@admin.command("drafter")
def admin_drafter(
    name: Annotated[
        str,
        typer.Argument(
            help="As serve's --drafter, found on the server; none ends drafting, auto takes the "
            "best one known."
        ),
    ],
    *,
    server: Server = "127.0.0.1:50051",
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
) -> None:
    """Change what drafts while requests run; their tokens stay the same.

    Example: paceline admin drafter lookup
    """
    connect = _connect(server, token_file, root_ca, tls_cert, tls_key, tls, plaintext_token)
    run_verb(table.admin, AdminOptions(connect=connect, action="drafter", drafter=name))


@admin.command("drafters")
def admin_drafters(
    number: Annotated[int, typer.Argument(min=0, help="0 ends drafting.")],
    *,
    server: Server = "127.0.0.1:50051",
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
) -> None:
    """Change how many drafters draft side by side, on each replica; tokens stay the same.

    Example: paceline admin drafters 4
    """
    connect = _connect(server, token_file, root_ca, tls_cert, tls_key, tls, plaintext_token)
    run_verb(
        table.admin,
        AdminOptions(connect=connect, action="drafters", num_drafters=number),
    )


def _connect(
    server: str,
    token_file: Path | None,
    root_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls: bool,
    plaintext_token: bool,
) -> ConnectOptions:
    return ConnectOptions(
        server=server,
        token_file=token_file,
        root_ca=root_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls=tls,
        plaintext_token=plaintext_token,
    )
