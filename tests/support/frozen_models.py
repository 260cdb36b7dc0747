"""What a model in low precision holds, for comparisons with transformers' own."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from parallel.training.frozen_linear import FrozenLinear, weight_of


def num_bytes(model: nn.Module) -> int:
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        tensors[tensor.data_ptr()] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def with_numbers_of(plain: PreTrainedModel, frozen: PreTrainedModel) -> PreTrainedModel:
    """Give transformers' model the numbers that a frozen one holds."""
    with torch.no_grad():
        for name, module in frozen.named_modules():
            if isinstance(module, FrozenLinear):
                plain.get_submodule(name).weight.copy_(weight_of(module))
        plain.get_input_embeddings().weight.copy_(frozen.get_input_embeddings().weight.float())
    return plain
