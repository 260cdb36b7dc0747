"""A GGUF format names a layer's modules."""

from runtime.models.families.family import GgufFormat


def test_a_format_adds_modules_and_replaces_names() -> None:
    plain = GgufFormat(architecture="plain")
    other = GgufFormat(architecture="other", modules={"ffn_norm": "norm", "ffn_post": "post"})
    assert plain.hf_module("ffn_norm") == "post_attention_layernorm"
    assert plain.hf_module("ffn_post") is None
    assert [other.hf_module(name) for name in ("ffn_norm", "ffn_post", "ffn_up")] == [
        "norm",
        "post",
        "mlp.up_proj",
    ]
