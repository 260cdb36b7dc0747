"""The train verbs of the command line."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import (
    ClientCert,
    ClientKey,
    Device,
    Json,
    PlaintextToken,
    Ray,
    RootCa,
    Tls,
    TokenFile,
)
from cluster.cli.path_options import input_directory, input_file, new_directory, picture
from cluster.cli.verbs import RunByDefault, Verbs, run_verb
from cluster.options.client_options import ConnectOptions
from cluster.options.simulate_options import SimulateTrainOptions
from cluster.options.train_options import (
    TrainCancelOptions,
    TrainJoinOptions,
    TrainMergeOptions,
    TrainOptions,
    TrainReplayOptions,
    TrainStatusOptions,
)

app = Verbs(
    no_args_is_help=True,
    cls=RunByDefault,
    help="Fine-tune on workers that may be slow, hang or die: train CONFIG.toml.",
)


@app.command("run")
def train(
    config: Annotated[
        Path, typer.Argument(callback=input_file, help="The job: a TOML file (docs/training.md).")
    ],
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value over the file's; repeatable."),
    ] = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Run a job, or go on with one that was cut; the same as train CONFIG.toml.

    Example: paceline train sst2.toml --set optimizer.steps=200
    """
    options = TrainOptions(
        config=config, settings=tuple(settings or ()), ray_address=ray, json=json
    )
    run_verb(table.train, options)


@app.command("resume")
def resume(
    directory: Annotated[
        Path, typer.Argument(callback=input_directory, help="The job's directory.")
    ],
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value over the job's; repeatable."),
    ] = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Go on with a job that was cut or cancelled, without its file.

    Example: paceline train resume runs/sst2 --set workers.count=8
    """
    options = TrainOptions(
        config=directory, settings=tuple(settings or ()), ray_address=ray, json=json
    )
    run_verb(table.train, options)


@app.command("cancel")
def cancel(
    directory: Annotated[
        Path, typer.Argument(callback=input_directory, help="The job's directory.")
    ],
    *,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its step to end.")] = 120.0,
    json: Json = False,
) -> None:
    """Let a running job end after its step; `resume` goes on with it."""
    options = TrainCancelOptions(directory=directory, timeout_s=timeout, json=json)
    run_verb(table.train_cancel, options)


@app.command("status")
def status(
    directory: Annotated[
        Path, typer.Argument(callback=input_directory, help="The job's directory.")
    ],
    *,
    json: Json = False,
) -> None:
    """Tell how far a job is."""
    run_verb(table.train_status, TrainStatusOptions(directory=directory, json=json))


@app.command("merge")
def merge(
    adapter: Annotated[
        Path, typer.Argument(callback=input_directory, help="An adapter's directory, as OUT/final.")
    ],
    *,
    out: Annotated[Path, typer.Option(callback=new_directory, help="Where the merged model goes.")],
    json: Json = False,
) -> None:
    """Merge an adapter into its model; the result loads like any model.

    Example: paceline train merge runs/sst2/final --out sst2-model
    """
    run_verb(table.train_merge, TrainMergeOptions(adapter=adapter, out=out, json=json))


@app.command("join")
def join(
    *,
    server: Annotated[str, typer.Option(help="HOST:PORT that the run says as it starts.")],
    data: Annotated[
        Path,
        typer.Option(
            callback=input_file,
            help="Your samples, .jsonl as the job's; they stay on this machine.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="The model's directory, where the run's name is none here.")
    ] = None,
    name: Annotated[str, typer.Option(help="For people to read.")] = "",
    reward: Annotated[
        str,
        typer.Option(
            help="What judges answers where a run is trained by rewards: module:function of prompt "
            "and answer, or grpc://HOST:PORT."
        ),
    ] = "",
    threads: Annotated[int, typer.Option(help="Threads of the forward passes.")] = 1,
    device: Device = "cpu",
    give_up: Annotated[
        float, typer.Option(help="Seconds that the run may be silent before this worker ends.")
    ] = 300.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="faults.key=value, for experiments; repeatable."),
    ] = None,
    token_file: TokenFile = None,
    root_ca: RootCa = None,
    tls_cert: ClientCert = None,
    tls_key: ClientKey = None,
    tls: Tls = False,
    plaintext_token: PlaintextToken = False,
    json: Json = False,
) -> None:
    """Work for a shared-seed run from outside its cluster: forward passes, a byte a direction.

    Example: paceline train join --server 192.0.2.7:50052 --data mine.jsonl
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
    options = TrainJoinOptions(
        connect=connect,
        data=data,
        model=model,
        name=name,
        reward=reward,
        threads=threads,
        device=device,
        give_up_s=give_up,
        settings=tuple(settings or ()),
        json=json,
    )
    run_verb(table.train_join, options)


@app.command("replay")
def replay(
    *,
    log: Annotated[
        Path, typer.Option(callback=input_file, help="A shared-seed run's log, OUT/seeds.log.")
    ],
    out: Annotated[
        Path, typer.Option(callback=new_directory, help="Where the adapter goes; a new directory.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The model it began from; default: what the log names.")
    ] = None,
    json: Json = False,
) -> None:
    """Rebuild a shared-seed run's adapter from its log, bit for bit.

    Example: paceline train replay --base smollm2-135m --log runs/sst2/seeds.log --out again
    """
    options = TrainReplayOptions(log=log, base=base, result=out, json=json)
    run_verb(table.train_replay, options)


@app.command("verify")
def verify(
    adapter: Annotated[
        Path, typer.Argument(callback=input_directory, help="A published adapter's directory.")
    ],
    *,
    log: Annotated[
        Path, typer.Option(callback=input_file, help="The log that it is said to come from.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The model it began from; default: what the log names.")
    ] = None,
    json: Json = False,
) -> None:
    """Check that an adapter is what its log comes to; exit code 1 if it is not.

    Example: paceline train verify runs/sst2/final --log runs/sst2/seeds.log
    """
    options = TrainReplayOptions(log=log, base=base, result=adapter, json=json)
    run_verb(table.train_verify, options)


simulate = Verbs(no_args_is_help=True, help="Try out a cluster that nobody has here.")


@simulate.callback()
def _group() -> None:
    """Keep the verb's name: a group with one verb would lose it."""


@simulate.command("train")
def simulate_train(
    *,
    workers: Annotated[int, typer.Option(help="Workers; a trace says itself how many.")] = 16,
    model: Annotated[
        str,
        typer.Option(
            help="How long workers take: gilbert-elliott (computing takes the time), serverless "
            "(latency does), or trace:FILE.csv (rows are rounds, columns workers, in seconds). "
            "The first two take settings, as gilbert-elliott:slow=0.05,factor=3 : slow and fast "
            "(chances to turn so), factor and tail (how slow), overhead, work, jitter (seconds)."
        ),
    ] = "gilbert-elliott",
    schemes: Annotated[
        str,
        typer.Option(
            help="With commas; the first is what others are compared with: uncoded, drop-K, gc-S, "
            "frc-S, class-S, cyclic-S, roots-S, sr-sgc-B-W-L, m-sgc-B-W-L, frc-stream-D, pull-K."
        ),
    ] = "uncoded,drop-2,gc-1,m-sgc-1-3-2,sr-sgc-1-2-2,frc-stream-2,pull-4",
    rounds: Annotated[int, typer.Option(help="Rounds; a trace has its own.")] = 300,
    patience: Annotated[
        float, typer.Option(help="A worker is late after 1 + this times what fast ones take.")
    ] = 1.0,
    slope: Annotated[
        float | None,
        typer.Option(
            help="Of a trace: seconds that reading all of a batch would add. Left out, computing "
            "is taken to be all that the workers did."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the model's chance.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            callback=picture,
            help="Draw time against work done, and stragglers a round, to this .png.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare straggler schemes on the same times, with the objects that train.

    Example: paceline simulate train --workers 256 --model serverless --schemes
    uncoded,gc-15,sr-sgc-2-3-23,m-sgc-1-2-27
    """
    options = SimulateTrainOptions(
        workers=workers,
        model=model,
        schemes=tuple(schemes.split(",")),
        rounds=rounds,
        patience=patience,
        slope=slope,
        seed=seed,
        plot=plot,
        json=json,
    )
    run_verb(table.simulate_train, options)
