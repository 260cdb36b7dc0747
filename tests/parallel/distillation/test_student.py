"""The drafter that learns computes what the engine's decoder computes."""

import pytest
import torch

from parallel.distillation.student import Student
from parallel.group import SoloGroup
from parallel.model.shapes import tensor_shapes
from parallel.model.transformer import Decoder
from tests.support.tiny_transformer import CPU, TableSource, score, tiny_model, tokens

HEAD = torch.tensor([2, 3, 5, 40, 41, 77, 100])


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_equals_the_decoder_with_a_reduced_head(kind: str) -> None:
    model = tiny_model(kind, tie_word_embeddings=True)
    names = [name for name in tensor_shapes(model.config) if "embed" not in name]
    weights = {name: model.source.read(name) for name in names}
    embedding = model.source.read("model.embed_tokens.weight")
    student = Student(model.config, weights, head=embedding[HEAD])
    prompt = tokens(30)
    hidden = student(embedding[torch.tensor([prompt])])[0]
    source = TableSource(
        weights | {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding[HEAD]}
    )
    decoder = Decoder(model.config, source, SoloGroup(), head_size=len(HEAD), device=CPU)
    torch.testing.assert_close(
        student.score(hidden).detach(), score(decoder, prompt), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        student.score(hidden).detach(), model.expected(prompt)[:, HEAD], atol=1e-4, rtol=1e-4
    )


def test_its_weights_come_back_by_their_names() -> None:
    model = tiny_model(tie_word_embeddings=True)
    names = [name for name in tensor_shapes(model.config) if "embed" not in name]
    weights = {name: model.source.read(name) for name in names}
    student = Student(model.config, weights, head=torch.zeros(3, 36))
    assert {n: t.shape for n, t in student.named_weights().items()} == {
        n: t.shape for n, t in weights.items()
    }


def test_a_model_with_biases_is_rejected() -> None:
    with pytest.raises(ValueError, match="qwen2 models cannot be trained yet because of qkv_bias"):
        Student(tiny_model("qwen2").config, {}, head=torch.zeros(3, 36))
