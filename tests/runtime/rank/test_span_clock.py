"""Times of the parts of a step: nested spans, and the operators of a real forward."""

import pytest
import torch

from parallel.group import SoloGroup
from parallel.model.torch_backend import TorchBackend
from parallel.model.transformer import Decoder
from runtime.clock import ManualClock
from runtime.rank.span_clock import OperatorSpans, SpanClock, StepPart, part_of, timed
from tests.support.tiny_transformer import CPU, make_cache, rows_of, tiny_model


def test_a_span_inside_another_pauses_it() -> None:
    clock = ManualClock()
    spans = SpanClock(clock)
    with spans.span(StepPart.PYTHON):
        clock.advance(1.0)
        with spans.span(StepPart.PRODUCTS):
            clock.advance(2.0)
            with spans.span(StepPart.ATTENTION):
                clock.advance(4.0)
            clock.advance(8.0)
        clock.advance(16.0)
    clock.advance(32.0)  # between steps
    with spans.span(StepPart.PRODUCTS):
        clock.advance(64.0)
    assert spans.seconds == {
        StepPart.PYTHON: 17.0,
        StepPart.PRODUCTS: 74.0,
        StepPart.ATTENTION: 4.0,
    }


def test_a_span_ends_with_an_error_too() -> None:
    clock = ManualClock()
    spans = SpanClock(clock)

    def fail() -> None:
        clock.advance(1.0)
        raise RuntimeError("no")

    with spans.span(StepPart.PYTHON):
        with pytest.raises(RuntimeError):
            timed(spans, StepPart.HEAD, fail)()
        clock.advance(2.0)
    assert spans.seconds == {StepPart.PYTHON: 2.0, StepPart.HEAD: 1.0}


def test_a_native_call_reports_its_own_parts() -> None:
    clock = ManualClock()
    spans = SpanClock(clock)

    def native_call() -> None:
        clock.advance(10.0)
        spans.add(StepPart.PRODUCTS, 7.0)
        spans.add(StepPart.ATTENTION, 2.0)

    timed(spans, StepPart.PYTHON, native_call)()
    assert spans.seconds == {
        StepPart.PYTHON: 1.0,
        StepPart.PRODUCTS: 7.0,
        StepPart.ATTENTION: 2.0,
    }


class CountingClock(ManualClock):
    """A clock that advances by a second each time that it is read."""

    def now_s(self) -> float:
        self.advance(1.0)
        return super().now_s()


def test_every_operator_of_a_forward_is_counted_for_its_part() -> None:
    model = tiny_model("llama")
    decoder = Decoder(
        model.config,
        model.source,
        SoloGroup(),
        device=CPU,
        backend=TorchBackend(torch.float32),
    )
    cache = make_cache(decoder)
    cache.open(0, 20)
    spans = SpanClock(CountingClock())
    with torch.inference_mode():
        expected = decoder.forward([rows_of((5, 6, 7))], cache)
        with OperatorSpans(spans, head_size=decoder.head_size):
            found = decoder.forward([rows_of((5, 6, 7))], cache)
    assert torch.equal(found, expected)
    layers = decoder.stack.num_layers
    assert spans.seconds[StepPart.PRODUCTS] == 4 * layers  # qkv, output, gate and up, down
    assert spans.seconds[StepPart.ATTENTION] == layers
    assert spans.seconds[StepPart.HEAD] == 1
    assert spans.seconds[StepPart.ELEMENTWISE] >= 6 * layers
    assert spans.seconds[StepPart.COPIES] > layers


@pytest.mark.parametrize(
    ("operator", "part"),
    [
        ("aten::mm", StepPart.PRODUCTS),
        ("aten::linear", StepPart.PRODUCTS),
        ("mkl::_mkl_linear", StepPart.PRODUCTS),
        ("mkldnn::_linear_pointwise.binary", StepPart.PRODUCTS),
        ("aten::_weight_int4pack_mm_for_cpu", StepPart.PRODUCTS),
        ("aten::scaled_dot_product_attention", StepPart.ATTENTION),
        ("aten::topk", StepPart.VERIFY),
        ("aten::rms_norm", StepPart.ELEMENTWISE),
        ("aten::copy_", StepPart.COPIES),
    ],
)
def test_operators_are_known_by_their_names(operator: str, part: StepPart) -> None:
    x, weight = torch.zeros(3, 8), torch.zeros(16, 8)
    assert part_of(operator, (x, weight), head_size=99) is part


def test_the_product_with_the_matrix_of_the_head_is_the_heads() -> None:
    x, weight = torch.zeros(16, 8), torch.zeros(16, 8)
    assert part_of("aten::linear", (x, weight), head_size=16) is StepPart.HEAD
    assert part_of("aten::linear", (x, torch.zeros(4, 8)), head_size=16) is StepPart.PRODUCTS
