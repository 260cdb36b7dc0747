"""The futures that aligned samples share: those of the same prompt, constraint and temperature."""

from parallel.decoding.alignment import AlignedSample, LearnedFutures
from parallel.messages import Submit


class Aligning:
    """Keeps what aligned samples of one leader have learned."""

    def __init__(self) -> None:
        self._futures = LearnedFutures()

    def sample_of(self, submit: Submit) -> AlignedSample | None:
        """Return a request's place among the futures it shares; None if it is not aligned."""
        sampling = submit.sampling
        if sampling.constraint is None or not sampling.constraint.align:
            return None
        key = (
            submit.adapter,
            submit.prompt_ids,
            sampling.constraint,
            sampling.temperature,
            frozenset(submit.stop_token_ids),
        )
        return AlignedSample(self._futures.of(key), sampling.temperature)
