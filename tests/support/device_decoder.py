"""A whole step by the kernels, from the upload of its plan to the download of its verdicts.

It shows that a step can be a function of device buffers alone, and what it launches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parallel.device_kernels.step_kernels import StepKernels
from parallel.device_step.drawn_tokens import DrawnTokens
from parallel.device_step.step_packing import PackingRules
from parallel.device_step.step_shape import StepShape, device_arrays
from parallel.group import Group, SoloGroup
from parallel.model.cache import SoleCache
from parallel.model.device_backend import DeviceBackend
from parallel.model.layer_weights import TensorSource
from parallel.model.model_config import ModelConfig
from parallel.model.transformer import Decoder


@dataclass(frozen=True)
class StepResult:
    """What a step computes."""

    logits: Tensor
    """[scored, vocab shard], on the device."""
    drawn: DrawnTokens
    """On the device."""
    found: DrawnTokens
    """The same on the host."""


class DeviceDecoder:
    """A decoder whose step is a function of device buffers."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        kernels: StepKernels,
        device: str,
        *,
        page_size: int,
        num_pages: int,
        dtype: torch.dtype = torch.float32,
        group: Group | None = None,
    ) -> None:
        """Read the weights, and make a cache of NaN."""
        self._group = group or SoloGroup()
        self._backend = DeviceBackend(kernels, dtype)
        self._device = torch.device(device)
        self.decoder = Decoder(
            config, source, self._group, device=self._device, backend=self._backend
        )
        stack = self.decoder.stack
        self.cache = SoleCache(
            num_layers=stack.num_cached_layers,
            num_kv_heads=stack.heads.num_kv,
            head_dim=config.head_dim,
            num_pages=num_pages,
            page_size=page_size,
            dtype=dtype,
            device=self._device,
        )
        self.cache.storage.fill_(torch.nan)

    @property
    def rules(self) -> PackingRules:
        """How steps are packed."""
        return self._backend.rules(self.cache, self.decoder.layout)

    def step(self, plan: Tensor, shape: StepShape) -> StepResult:
        """Run a step; the plan is the packed buffer, on the host."""
        buffer = torch.empty(shape.num_words, dtype=torch.int32, device=self._device)
        buffer.copy_(plan)
        arrays = device_arrays(buffer, shape)
        self._backend.move(arrays, self.cache)
        inputs = self._backend.inputs(
            arrays, shape, self.cache, self.decoder.layout, num_scored=shape.scored
        )
        outputs = self.decoder.outputs(inputs)
        assert outputs.drawn is not None
        return StepResult(logits=outputs.logits, drawn=outputs.drawn, found=outputs.drawn.cpu())


def words_of(shape: StepShape) -> NDArray[np.int32]:
    """Return a buffer for a packed step, full of garbage."""
    return np.full(shape.num_words, 0x55555555, dtype=np.int32)
