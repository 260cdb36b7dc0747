"""Errors name fields in backticks; a verb prints them as its user writes them."""

import pytest

from cluster.cli.generate_verb import GENERATE


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("raise `cache_tokens`", "raise --set models.cache_tokens"),
        ("lower `max_tokens` or `top_k`", "lower --max-tokens or --set decode.top_k"),
        ("`models.tp` is 9", "--tp is 9"),
        ("`ray_address` auto", "--ray auto"),
        ("it needs `device=cuda`", "it needs --set models.device=cuda"),
        ("use `mode=pearl`", "use --mode pearl"),
        ("`num_frobs` is 9", "`num_frobs` is 9"),
        ("`num_frobs=9`", "`num_frobs=9`"),
        ("write `a = 1`", "write `a = 1`"),
        ("no field here", "no field here"),
    ],
)
def test_a_field_in_backticks_is_printed_as_its_flag_or_key(message: str, printed: str) -> None:
    assert GENERATE.explain(message) == printed
