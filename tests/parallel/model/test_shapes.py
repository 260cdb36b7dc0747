"""The list of tensors equals what transformers saves."""

import pytest

from parallel.model.shapes import tensor_shapes
from tests.support.tiny_transformer import tiny_model


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_names_and_shapes_are_those_of_transformers(kind: str, changes: dict[str, object]) -> None:
    model = tiny_model(kind, **changes)
    saved = {name: tuple(t.shape) for name, t in model.reference.state_dict().items()}
    assert tensor_shapes(model.config) == saved


def test_a_cut_model_needs_its_layers_only() -> None:
    model = tiny_model(tie_word_embeddings=True)
    names = tensor_shapes(model.config, (0, 2))
    assert "lm_head.weight" not in names
    assert {name.split(".")[2] for name in names if "layers" in name} == {"0", "2"}
