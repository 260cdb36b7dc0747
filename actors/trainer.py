"""The process in which a drafter learns."""

from collections.abc import Iterator

from runtime.draft_job import DraftJob, JobEvent, run_job


class DraftTrainerActor:
    """Runs one job; it goes on from its checkpoint when started again."""

    def train(self, job: DraftJob) -> Iterator[JobEvent]:
        """Yield the job's events as it advances."""
        yield from run_job(job)
