"""The verbs of the gRPC service: serve, and what one does with a server."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import (
    Chat,
    ClientCert,
    ClientKey,
    Json,
    PlaintextToken,
    RootCa,
    Server,
    Stop,
    Tls,
    TokenFile,
)
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.client_options import AdminOptions, ClientOptions, ConnectOptions, TopOptions

admin = Verbs(no_args_is_help=True, help="Run a server: status, draining, its drafter.")


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
    """Finish requests in flight, reject new ones, and end the server."""
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
