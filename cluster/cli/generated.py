"""Make the commands of typer from the declarations of verbs."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.declaration import Options, VerbDeclaration
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.document import OptionsDraft
from cluster.options.paths import check_path
from cluster.options.schema import REQUIRED, Env, PathUse, Repeated, Setting, choices_of
from runtime.errors import PacelineError

DECLARATIONS: dict[str, VerbDeclaration[Any]] = {}
"""All verbs that were added, by name."""
_CONFIG = "config_"
_SET = "set_"
_METAVARS = {int: "N", float: "X", bool: "", Path: "PATH"}


def add_verb(app: Verbs, verb: VerbDeclaration[Options]) -> None:
    """Add a declared verb to a group of the command line."""
    DECLARATIONS[verb.name] = verb
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(
        verb.name.rpartition(" ")[2],
        help=verb.help,
        context_settings=settings if verb.passes_on else None,
    )(_command(verb))


def options_of(verb: VerbDeclaration[Options], given: dict[str, Any], extra: list[str]) -> Options:
    """Return a verb's options from what the command line gave.

    Args:
        verb: the declaration.
        given: values by parameter name; None where one was left out.
        extra: arguments that the verb passes on.

    Raises:
        ConfigError: a value cannot be used; names its option, or its file and key.
    """
    draft = OptionsDraft(verb.options, verb.names, frozenset(verb.fixed))
    draft.add_environment(os.environ)
    file = given.get(_CONFIG)
    if file is not None:
        check_path(file, PathUse.INPUT_FILE, "--config")
        draft.add_file(file)
    draft.add_assignments(given.get(_SET) or ())
    for key in (*verb.arguments, *verb.flag_keys):
        value = given[_parameter_name(key)]
        if value is not None and value != []:
            draft.add_flag(key, value)
    if verb.passes_on is not None:
        draft.add_rest(verb.passes_on, extra)
    return draft.build(verb.options)


def _command(verb: VerbDeclaration[Options]) -> Callable[..., None]:
    """Return a function with the signature that typer reads the verb's parameters from."""

    def command(context: typer.Context, **given: Any) -> None:
        try:
            run_verb(verb.run, options_of(verb, given, context.args))
        except PacelineError as error:
            error.args = (verb.explain(str(error)),)
            raise

    settings = verb.settings
    parameters = [
        inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        ),
        *(_argument(settings[key]) for key in verb.arguments),
        *(_option(settings[key], heading) for heading, keys in verb.flags.items() for key in keys),
    ]
    if verb.has_more_settings:
        parameters += _configuration(verb.name)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {part.name: part.annotation for part in parameters}
    return command


def _parameter_name(key: str) -> str:
    return key.replace(".", "__")


def _parameter(name: str, kind: Any, info: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, info],
    )


def _configuration(verb: str) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a verb that has more settings than flags."""
    all_settings = f"Any setting: see paceline docs options {verb}."
    return (
        _parameter(
            _CONFIG,
            Path | None,
            typer.Option("--config", metavar="FILE", help="TOML file with settings."),
        ),
        _parameter(
            _SET,
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help=all_settings),
        ),
    )


def _argument(setting: Setting) -> inspect.Parameter:
    kind: Any = list[str] if setting.is_list else str
    optional = setting.default is not REQUIRED
    info = typer.Argument(metavar=setting.name.upper(), help=setting.summary, show_default=False)
    return _parameter(
        _parameter_name(setting.key),
        kind | None if optional else kind,
        info,
        None if optional else inspect.Parameter.empty,
    )


def _option(setting: Setting, heading: str) -> inspect.Parameter:
    kind: Any = bool if setting.kind is bool else str
    if setting.is_list and setting.mark(Repeated) is not None:
        kind = list[str]
    flag = setting.flag
    if setting.default is True:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    info = typer.Option(
        flag,
        metavar=_metavar(setting),
        help=_help(setting),
        show_default=False,
        rich_help_panel=heading or None,
    )
    return _parameter(_parameter_name(setting.key), kind | None, info)


def _metavar(setting: Setting) -> str:
    name = _METAVARS.get(setting.kind, "TEXT")
    has_commas = setting.is_list and setting.mark(Repeated) is None
    return f"{name},..." if has_commas else name


def _help(setting: Setting) -> str:
    """Return the first sentence of a setting's documentation, its choices and its default."""
    notes = []
    choices = choices_of(setting.kind)
    if choices:
        notes.append(", ".join(choices))
    variable = setting.mark(Env)
    if variable is not None:
        notes.append(f"environment: {variable.name}")
    if setting.default is REQUIRED:
        notes.append("required")
    elif setting.default_text is not None and setting.kind is not bool:
        notes.append(f"default: {setting.default_text}")
    return setting.summary + (f" ({'; '.join(notes)})" if notes else "")
