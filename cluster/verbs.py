"""Loads a verb's module when it is asked for, so that `--help` is quick."""

import importlib

import typer


def run_verb(module: str, options: object) -> None:
    """Run the module's `run(options)`; a non-zero result is the exit code."""
    code = importlib.import_module(module).run(options)
    if code:
        raise typer.Exit(code)
