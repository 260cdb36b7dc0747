"""The leader's process builds the drafter that is planned for it."""

from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.hosts.drafter_spec import InlineModelDrafterSpec, LookupDrafterSpec, NoDrafterSpec
from runtime.hosts.inline_drafting import build_inline_drafter
from runtime.hosts.rank_settings import ModelSettings
from runtime.rank.virtual_shard import VirtualSpec

VIRTUAL = VirtualSpec(target_s=0.0, draft_s=0.0, alpha=0.5, vocab_size=50)


def test_nothing_is_built_where_nothing_drafts() -> None:
    assert build_inline_drafter(NoDrafterSpec()) is None


def test_look_ups_read_any_token() -> None:
    built = build_inline_drafter(LookupDrafterSpec(LookupSettings.parse("recycle")))
    assert built is not None
    assert isinstance(built.drafter, LookupDrafter)
    assert built.hello.vocab_size is None
    assert built.hello.num_successors > 0


def test_a_model_names_the_tokens_it_reads() -> None:
    settings = ModelSettings(role="drafter", virtual=VIRTUAL, cache_tokens=64)
    built = build_inline_drafter(InlineModelDrafterSpec(settings))
    assert built is not None
    assert isinstance(built.drafter, ModelDrafter)
    assert built.hello.vocab_size == 50
    assert not built.hello.grows_trees
