"""Options of `paceline docs options`."""

from dataclasses import dataclass

from cluster.options.schema import OutputFile


@dataclass(frozen=True, slots=True, kw_only=True)
class DocsOptions:
    """List the settings of a verb, or of all verbs: flags, keys, types and defaults."""

    verb: tuple[str, ...] = ()
    """The verb, as bench decode; all verbs if left out."""
    out: OutputFile | None = None
    """Write the reference of all verbs to this Markdown file."""
    frozen: OutputFile | None = None
    """Write the names of all flags and keys to this file, which a test compares with."""
