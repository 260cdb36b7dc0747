"""What all verbs of the command line share: how they read arguments, and how they start."""

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from cluster.cli import table
from runtime.errors import ConfigError

_Options = TypeVar("_Options")
_EMPTY_OPTION = re.compile(r"--[a-z][a-z-]*=")


def run_verb(run: Callable[[_Options], int], options: _Options) -> None:
    """Run a verb's function; a non-zero result is the exit code.

    Raises:
        ConfigError: the cluster cannot be joined; known before a model is read.
    """
    address = getattr(getattr(options, "models", options), "ray_address", None)
    if address is not None:
        table.check_joinable(address)
    code = run(options)
    if code:
        raise typer.Exit(code)


class PlainHelp:
    """A command or group whose help lists `--help` as the flag that it is, without a type."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the help option."""
        option = super().get_help_option(ctx)  # type: ignore[misc]  # the command beside it has one
        if option is not None:
            option.metavar = ""
        return option


class Verb(PlainHelp, TyperCommand):
    """A command that accepts only UTF-8 values that are not empty."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            ConfigError: a value is empty or not UTF-8; the message names the option.
        """
        args = [
            _as_text(arg, self._name_at(args, position)) if not arg.isascii() else arg
            for position, arg in enumerate(args)
        ]
        for position, arg in enumerate(args):
            if not arg or _EMPTY_OPTION.fullmatch(arg):
                name = self._name_at(args, position) if not arg else arg.removesuffix("=")
                raise ConfigError(f"{name} is empty: give a value, or leave it out")
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def _name_at(self, args: list[str], position: int) -> str:
        """Return the option of the value at a position of the command line."""
        option, given, _ = args[position].partition("=")
        if given and option.startswith("--"):
            return option
        before = args[position - 1] if position else ""
        for parameter in self.params:
            if before in parameter.opts and not getattr(parameter, "is_flag", False):
                return before
        return "an argument"


class VerbGroup(PlainHelp, TyperGroup):
    """The command of a group of verbs."""


class Verbs(typer.Typer):
    """A group of verbs."""

    def __init__(self, *, cls: type[VerbGroup] = VerbGroup, **settings: Any) -> None:
        """Store how the group reads its command line."""
        super().__init__(cls=cls, **settings)

    def command(
        self, name: str | None = None, **settings: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Return what makes a function a verb, as `typer.Typer.command` does."""
        return super().command(name, **({"cls": Verb} | settings))


class RunByDefault(VerbGroup):
    """Takes `VERB FILE.toml` as `VERB run FILE.toml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the default in front of what is no verb."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


def _as_text(arg: str, name: str) -> str:
    """Return an argument as UTF-8 has it, also where the locale is another one."""
    try:
        return os.fsencode(arg).decode("utf-8")
    except UnicodeError as error:
        raise ConfigError(f"{name} is not UTF-8 ({ascii(arg)[:100]}): write it in UTF-8") from error
