"""Reads the name of a drafter, as `drafter` gives it, into one of a few cases."""

from dataclasses import dataclass

from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings, is_lookup_source
from runtime.errors import ConfigError

AUTO = "auto"
_NGRAM = "ngram"
_LOOKUP = "lookup"
_INLINE = "inline:"
_BESIDE = "beside:"
_TARGET = "target:"


@dataclass(frozen=True, slots=True)
class AutoDrafterText:
    """`auto`: the best drafter known for the target."""


@dataclass(frozen=True, slots=True)
class NgramDrafterText:
    """`ngram`: copies from prompt and output, in its own actor."""


@dataclass(frozen=True, slots=True)
class LookupDrafterText:
    """`lookup:ngram+recycle+store=DIR`: look-ups in the target's process."""

    lookups: LookupSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDrafterText:
    """`MODEL+ngram+recycle`: a model on its own ranks, and its look-ups."""

    model: str
    """The name of a model, or a directory; the target's, if `target_layers` is given."""
    target_layers: str | None = None
    """The layers that the target is cut to, as 0-3,28-29."""
    lookups: LookupSettings = NO_LOOKUPS


@dataclass(frozen=True, slots=True)
class InlineDrafterText:
    """`inline:MODEL` or `beside:MODEL`: a model in the target's process."""

    model: ModelDrafterText
    has_thread: bool = False
    """Whether it drafts in a thread of its own, during the target's forwards."""


DrafterText = (
    AutoDrafterText | NgramDrafterText | LookupDrafterText | ModelDrafterText | InlineDrafterText
)


def parse_drafter(name: str) -> DrafterText:
    """Return what a drafter's name means.

    Raises:
        ConfigError: a look-up source is not known, or only a model can be named so.
    """
    if name == AUTO:
        return AutoDrafterText()
    if name == _NGRAM:
        return NgramDrafterText()
    kind, _, sources = name.partition(":")
    if kind == _LOOKUP:
        return LookupDrafterText(LookupSettings.parse(sources))
    for prefix in (_INLINE, _BESIDE):
        if name.startswith(prefix):
            model = _parse_model(name.removeprefix(prefix), name)
            return InlineDrafterText(model, has_thread=prefix == _BESIDE)
    return _parse_model(name, name)


def _parse_model(text: str, name: str) -> ModelDrafterText:
    """Read `MODEL+ngram+recycle+store=DIR`, or the same with target:layers=A-B,C as the model."""
    model, sources = text, list[str]()
    while (parts := model.rpartition("+"))[1] and is_lookup_source(parts[2]):
        model = parts[0]
        sources.insert(0, parts[2])
    if model in (AUTO, _NGRAM) or model.partition(":")[0] == _LOOKUP:
        raise ConfigError(f"`drafter` is {name!r}: only a model can be inline or have + after it")
    lookups = LookupSettings.parse_parts(sources) if sources else NO_LOOKUPS
    if not model.startswith(_TARGET):
        return ModelDrafterText(model=model, lookups=lookups)
    kind, _, layers = model.removeprefix(_TARGET).partition("=")
    if kind != "layers" or not layers:
        raise ConfigError(f"`drafter` is {name!r}: write target:layers=0-3,28-29")
    return ModelDrafterText(model=model, target_layers=layers, lookups=lookups)
