"""The process in which a drafter is made."""

from collections.abc import Iterator

from parallel.drafting.layer_skip import SkipTrial
from runtime.draft_follow import FollowEvent, FollowJob, run_follow
from runtime.draft_job import DraftJob, JobEvent, run_job
from runtime.layer_search import SearchJob, run_search


class DraftTrainerActor:
    """Runs one job; it goes on from its checkpoint when started again."""

    def train(self, job: DraftJob) -> Iterator[JobEvent]:
        """Yield the job's events as it advances."""
        yield from run_job(job)

    def follow(self, job: FollowJob) -> Iterator[FollowEvent]:
        """Yield as a drafter waits for traffic and learns from it."""
        yield from run_follow(job)

    def search(self, job: SearchJob) -> Iterator[SkipTrial]:
        """Yield the sets of layers that were tried."""
        yield from run_search(job)
