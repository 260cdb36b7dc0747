"""The reference of all settings, made from the declarations of the verbs."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import DECLARATIONS
from cluster.options.docs_options import DocsOptions
from cluster.options.schema import (
    REQUIRED,
    Env,
    Repeated,
    Setting,
    choices_of,
    doc_of,
    sections_of,
    settings_of,
)
from runtime.checking.tables import Range, Unset
from runtime.errors import ConfigError

_KINDS = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
_INTRODUCTION = """\
# Settings

Written by `make reference`; do not edit.

Each verb has a few flags and more settings, all listed here; `paceline docs options VERB` lists
those of one verb. A value comes from the last of these that has one:

1. the default below
2. an environment variable, where one is named
3. the file of `--config FILE`, in TOML, with a table for each section
4. `--set KEY=VALUE`, as `--set models.max_batch=8`; repeatable
5. the flag

    [models]
    target = "smollm2-135m"
    max_batch = 8

    [decode]
    max_tokens = 256

A list is `["a", "b"]` in a file and `a,b` on the command line, or a flag for each item where its
type says so. Paths are relative to the working directory. Where a default is a word, as `auto`, the
word may also be written.
"""


def run(options: DocsOptions) -> int:
    """Print a verb's settings, or write or print the whole reference; return the exit code.

    Raises:
        ConfigError: there is no such verb.
    """
    if options.out is not None:
        options.out.write_text(reference(DECLARATIONS), encoding="utf-8")
    if options.frozen is not None:
        options.frozen.write_text(frozen_names(DECLARATIONS), encoding="utf-8")
    if options.out is not None or options.frozen is not None:
        return 0
    if not options.verb:
        print(reference(DECLARATIONS), end="")
        return 0
    name = " ".join(options.verb)
    if name not in DECLARATIONS:
        raise ConfigError(f"VERB is {name!r}: choose one of {', '.join(DECLARATIONS)}")
    print("\n".join(_listing(DECLARATIONS[name])))
    return 0


def reference(verbs: Mapping[str, VerbDeclaration[Any]]) -> str:
    """Return the reference of all verbs, in Markdown."""
    parts = [_INTRODUCTION, "## Sections\n"]
    sections: dict[tuple[str, type], None] = {}
    for verb in verbs.values():
        for name, kind in sections_of(verb.options).items():
            sections.setdefault((name, kind))
    parts += ["\n".join(_section(name, kind)) for name, kind in sections]
    parts.append("## Verbs\n")
    parts += ["\n".join(_verb(verb)) for verb in verbs.values()]
    return "\n".join(parts)


def frozen_names(verbs: Mapping[str, VerbDeclaration[Any]]) -> str:
    """Return one line a verb's flag, argument and other key, to compare with."""
    lines = []
    for verb in verbs.values():
        lines.append(verb.name)
        lines += [f"    {verb.names.get(key, '--set')} {key}" for key in verb.settings]
    return "\n".join(lines) + "\n"


def _section(name: str, kind: type) -> Iterator[str]:
    yield f"### {name}\n"
    yield doc_of(kind) + "\n"
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, setting in settings_of(kind).items():
        if "." not in key:
            yield _row(f"`{name}.{key}`", setting)
    yield ""


def _verb(verb: VerbDeclaration[Any]) -> Iterator[str]:
    yield f"### paceline {verb.name}\n"
    yield doc_of(verb.options) + "\n"
    yield f"    paceline {verb.name} {verb.example}\n"
    names = verb.names
    own = {key: s for key, s in verb.settings.items() if "." not in key}
    flags = [f"`{flag}` (`{key}`)" for key, flag in names.items() if key not in own]
    if flags:
        yield f"Flags for keys of the sections: {', '.join(flags)}.\n"
    if own:
        yield "| flag or key | type | default | meaning |"
        yield "| --- | --- | --- | --- |"
        for key, setting in own.items():
            yield _row(f"`{names.get(key, key)}`", setting)
        yield ""
    yield from _differences(verb)


def _differences(verb: VerbDeclaration[Any]) -> Iterator[str]:
    """Yield what this verb changes in the sections that it shares with others."""
    sections = {
        name: kind for name, kind in sections_of(verb.options).items() if name not in verb.fixed
    }
    if sections:
        yield f"Sections: {', '.join(f'[{name}](#{_anchor(name)})' for name in sections)}.\n"
    other = []
    for key, setting in verb.settings.items():
        section, _, name = key.rpartition(".")
        if section and settings_of(sections[section])[name].default != setting.default:
            other.append(f"`{key}` = {setting.default_text}")
    if other:
        yield f"Other defaults: {', '.join(other)}.\n"
    if verb.fixed:
        yield f"Not to be set here: {', '.join(f'`{key}`' for key in verb.fixed)}.\n"


def _anchor(section: str) -> str:
    """Return the link target that Markdown makes of a section's heading."""
    return section.replace(".", "")


def _row(name: str, setting: Setting) -> str:
    cells = (name, _kind(setting), _default(setting), setting.doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _listing(verb: VerbDeclaration[Any]) -> Iterable[str]:
    yield f"paceline {verb.name}: {doc_of(verb.options).splitlines()[0]}"
    names = verb.names
    for key, setting in verb.settings.items():
        flag = f"  {names[key]}" if key in names else ""
        yield ""
        yield f"{key}{flag}  ({_kind(setting)}; {_default(setting) or 'optional'})"
        yield from wrap(setting.doc, 96, initial_indent="    ", subsequent_indent="    ")


def _default(setting: Setting) -> str:
    variable = setting.mark(Env)
    before = f"${variable.name}, then " if variable is not None else ""
    if setting.default is REQUIRED:
        return "required"
    return before + (setting.default_text or "")


def _kind(setting: Setting) -> str:
    """Return a setting's type, choices and bounds in words."""
    choices = choices_of(setting.kind)
    name = ", ".join(choices) if choices else _KINDS.get(setting.kind, str(setting.kind))
    if setting.path_use is not None:
        name = setting.path_use.value
    bounds = setting.mark(Range)
    if bounds is not None:
        name += f" {bounds}"
    if setting.is_list:
        name = f"list: {name}" + (", flag repeated" if setting.mark(Repeated) is not None else "")
    unset = setting.mark(Unset)
    return f"{name}, or {unset.word}" if unset is not None else name
