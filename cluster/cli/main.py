"""The command line. Verbs live in modules of their own, loaded when asked for, so help is quick."""

import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from cluster.cli import bench_verbs as cli_bench
from cluster.cli import cluster_verbs as cli_cluster
from cluster.cli import draft_verbs as cli_draft
from cluster.cli import experiment_verbs as cli_experiment
from cluster.cli import serve_verbs as cli_serve
from cluster.cli import service_verbs as cli_service
from cluster.cli import shared_seed_verbs as cli_seeds
from cluster.cli import train_verbs as cli_train
from cluster.cli.command_endings import run_to_end
from cluster.cli.flags import (
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
    LayerParallel,
    Link,
    MaxBatch,
    MaxTokens,
    MinP,
    NumPrompts,
    Penalty,
    Place,
    Prompt,
    Prompts,
    Ray,
    Seed,
    Stop,
    Target,
    Temperature,
    Threads,
    TopK,
    TopP,
    Tp,
    Verifier,
    Virtual,
)
from cluster.cli.utf8 import restart_in_utf8
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.verb_options import (
    DecodeOptions,
    GenerateOptions,
    ModelOptions,
    PromptOptions,
)
from cluster.train.stopping import stop_signals

app = Verbs(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        try:
            print(f"paceline {version('paceline')}")
        except PackageNotFoundError:  # run from an upload
            print("paceline, not installed")
        raise typer.Exit


@app.callback(help="Generation and fine-tuning on Ray clusters, exact in both.")
def _all_verbs(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take what comes before a verb."""


app.command("serve")(cli_serve.serve)
app.command("client")(cli_serve.client)
app.command("top")(cli_serve.top)
app.add_typer(cli_serve.admin, name="admin")
app.add_typer(cli_service.app, name="service")
cli_bench.app.command("learn")(cli_seeds.bench_learn)
cli_bench.app.command("shared-seed")(cli_seeds.bench_seeds)
app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_draft.app, name="draft")
app.add_typer(cli_train.app, name="train")
cli_train.simulate.command("shared-seed")(cli_seeds.simulate_seeds)
app.add_typer(cli_train.simulate, name="simulate")
app.add_typer(cli_experiment.app, name="experiment")
app.add_typer(cli_cluster.app, name="cluster")
app.command("submit", context_settings=cli_cluster.SUBMIT_SETTINGS)(cli_cluster.submit)


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
    drafters: Drafters = None,
    layer_parallel: LayerParallel = "auto",
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
    place: Place = None,
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
        layer_parallel=layer_parallel,
        virtual=virtual,
        dtype=dtype,
        device=device,
        threads=threads,
        group_backend=group,
        link=link,
        place=place,
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
    run_verb("cluster.generate.generation", options)


def main() -> None:
    """Run the command line and exit; `cluster/cli/command_endings.py` has the exit codes."""
    restart_in_utf8()
    for number in set(stop_signals()) - {signal.SIGINT}:
        signal.signal(number, _on_terminate)
    sys.exit(run_to_end(lambda: app(standalone_mode=False)))


def _on_terminate(signum: int, frame: object) -> None:  # noqa: ARG001
    sys.exit(128 + signum)  # unwinds, so actors and a local Ray end
