"""Loads a verb's module when it is asked for, so that `--help` is quick."""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup


def run_verb(module: str, options: object) -> None:
    """Run the module's `run(options)`; a non-zero result is the exit code."""
    code = importlib.import_module(module).run(options)
    if code:
        raise typer.Exit(code)


class RunByDefault(TyperGroup):
    """Takes `VERB FILE.toml` as `VERB run FILE.toml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the default in front of what is no verb."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)
