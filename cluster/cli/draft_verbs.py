"""`paceline draft`: make drafters and compare them."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import (
    Device,
    Dtype,
    Json,
    Keep,
    MaxBatch,
    NumPrompts,
    Ray,
    Seed,
    Temperature,
    Threads,
    Tp,
)
from cluster.cli.path_options import (
    input_directory,
    input_file,
    new_directory,
    output_directory,
    picture,
)
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.draft_options import (
    DraftEvalOptions,
    DraftFollowOptions,
    DraftIndexOptions,
    DraftSkipOptions,
    DraftTrainOptions,
)
from cluster.options.generate_options import PromptOptions
from cluster.options.model_options import ModelOptions

app = Verbs(no_args_is_help=True, help="Make drafters for a target, and compare them.")


@app.command("train")
def train(
    *,
    target: Annotated[str, typer.Option(help="The model that the drafter is to draft for.")],
    out: Annotated[
        Path,
        typer.Option(
            callback=output_directory, help="Directory of the drafter; OUT.work holds the run."
        ),
    ],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            callback=input_file,
            help="A .jsonl file of prompts that the target answers; repeatable.",
        ),
    ] = None,
    free_prompts: Annotated[
        int, typer.Option(help="Prompts that the target writes itself, beside those of the files.")
    ] = 0,
    num_prompts: Annotated[
        int | None, typer.Option(help="Take only the first prompts of each file.")
    ] = None,
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the model's chat template.")] = True,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 224,
    layers: Annotated[int, typer.Option(help="Layers of the drafter.")] = 2,
    init_layers: Annotated[
        str | None,
        typer.Option(help="Target layers it starts from, as 0,29; default: evenly spread."),
    ] = None,
    head_vocab: Annotated[
        int, typer.Option(help="Tokens it can draft: those the target says most often.")
    ] = 8192,
    train_head: Annotated[
        bool, typer.Option(help="Train a head of its own, not the target's embedding rows.")
    ] = True,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 2000,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a step.")] = 4096,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate; default: 1e-3, with --follow 3e-4.")
    ] = None,
    divergence: Annotated[
        str,
        typer.Option(help="forward-kl, reverse-kl or total-variation (also the last quarter)."),
    ] = "forward-kl",
    on_policy: Annotated[
        float,
        typer.Option(
            help="Share of the steps that learn from what the drafter writes itself, as the target "
            "judges it (DistillSpec); such a step takes several times as long."
        ),
    ] = 0.0,
    precision: Annotated[
        str, typer.Option(help="Of matrix products: auto, float32 or bfloat16.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of sampling, order and questions.")] = 0,
    follow: Annotated[
        Path | None,
        typer.Option(
            callback=input_directory,
            help="Instead, continue training OUT with what `serve --traffic` writes here.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Of --follow; 0 continues until interrupted.")] = 0,
    round_steps: Annotated[int, typer.Option(help="Of --follow: steps of a round.")] = 20,
    window: Annotated[int, typer.Option(help="Of --follow: latest answers learned from.")] = 256,
    focus: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of --follow: how little accepted tokens count."),
    ] = 0.5,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue with the run in OUT.work.")
    ] = False,
    tp: Tp = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    max_batch: MaxBatch = 32,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Distil a small drafter from a target: it answers prompts, the drafter learns to predict it.

    Example: paceline draft train --target smollm2-135m --prompts questions.jsonl --out my-drafter
    """
    models = ModelOptions(
        target=target,
        drafter=None,
        tp=tp,
        dtype=dtype,
        device=device,
        threads=threads,
        max_batch=max_batch,
        ray_address=ray,
    )
    if follow is not None:
        following = DraftFollowOptions(
            models=models,
            follow=follow,
            out=out,
            rounds=rounds,
            round_steps=round_steps,
            window=window,
            focus=focus,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
            seed=seed,
            json=json,
        )
        run_verb(table.draft_follow, following)
        return
    options = DraftTrainOptions(
        models=models,
        out=out,
        prompts=tuple(prompts or ()),
        free_prompts=free_prompts,
        num_prompts=num_prompts,
        chat=chat,
        max_tokens=max_tokens,
        layers=layers,
        init_layers=init_layers,
        head_vocab=head_vocab,
        train_head=train_head,
        steps=steps,
        batch_tokens=batch_tokens,
        learning_rate=1e-3 if learning_rate is None else learning_rate,
        divergence=divergence,
        on_policy=on_policy,
        precision=precision,
        seed=seed,
        resume=resume,
        json=json,
    )
    run_verb(table.draft_train, options)


@app.command("skip")
def skip(
    *,
    target: Annotated[str, typer.Option(help="The model that is to draft for itself.")],
    prompts: Annotated[
        Path, typer.Option(callback=input_file, help="A .jsonl file of prompts to measure on.")
    ],
    num_prompts: Annotated[int, typer.Option(help="Take only the first prompts.")] = 8,
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the model's chat template.")] = True,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64,
    trials: Annotated[int, typer.Option(help="Sets of layers to try.")] = 100,
    seed: Seed = 0,
    tp: Tp = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Search which of a target's layers to keep when it drafts for itself, without training.

    Example: paceline draft skip --target smollm2-135m --prompts questions.jsonl
    """
    models = ModelOptions(
        target=target,
        drafter=None,
        tp=tp,
        dtype=dtype,
        device=device,
        threads=threads,
        max_batch=8,
        ray_address=ray,
    )
    options = DraftSkipOptions(
        models=models,
        prompts=prompts,
        num_prompts=num_prompts,
        chat=chat,
        max_tokens=max_tokens,
        trials=trials,
        seed=seed,
        json=json,
    )
    run_verb(table.draft_skip, options)


@app.command("index")
def index(
    files: Annotated[
        list[Path],
        typer.Argument(
            callback=input_file,
            help="Texts: .txt whole, .jsonl with text, prompt and answer fields.",
        ),
    ],
    *,
    target: Annotated[str, typer.Option(help="The model whose tokens the store holds.")],
    out: Annotated[
        Path, typer.Option(callback=new_directory, help="Directory of the store; must not exist.")
    ],
    json: Json = False,
) -> None:
    """Sort texts into a store that a look-up drafter copies from.

    Example: paceline draft index docs/*.txt --target smollm2-135m --out my-store
    """
    options = DraftIndexOptions(target=target, files=tuple(files), out=out, json=json)
    run_verb(table.draft_index, options)


@app.command("eval")
def evaluate(
    drafters: Annotated[
        list[str], typer.Argument(help="What --drafter takes: directories, lookup, ngram, ...")
    ],
    *,
    target: Annotated[str, typer.Option(help="The model they draft for.")],
    prompts: Annotated[
        Path,
        typer.Option(callback=input_file, help="A .jsonl file of prompts, perhaps by category."),
    ],
    num_prompts: NumPrompts = None,
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the model's chat template.")] = True,
    mode: Annotated[str, typer.Option(help="speculative or pearl.")] = "speculative",
    draft_length: Annotated[int, typer.Option(help="Draft tokens a round.")] = 5,
    max_tokens: Annotated[int, typer.Option(help="Tokens generated for each prompt.")] = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(callback=picture, help="Write the comparison to this .png.")
    ] = None,
    keep: Keep = None,
    tp: Tp = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Compare drafters: acceptance by position and category, cost, speed-up predicted and measured.

    Example: paceline draft eval lookup ngram --target smollm2-135m --prompts questions.jsonl
    """
    models = ModelOptions(
        target=target,
        prefix_cache=False,  # each run is to read its prompts
        drafter=None,
        tp=tp,
        dtype=dtype,
        device=device,
        threads=threads,
        max_batch=1,
        ray_address=ray,
    )
    options = DraftEvalOptions(
        models=models,
        drafters=tuple(drafters),
        prompts=PromptOptions(prompts=prompts, num_prompts=num_prompts, chat=chat),
        mode=mode,
        draft_length=draft_length,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        plot=plot,
        keep=keep,
        json=json,
    )
    run_verb(table.draft_eval, options)
