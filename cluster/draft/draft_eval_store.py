"""The measurements of `paceline draft eval`, by drafter and prompt."""

from dataclasses import dataclass

from cluster.deploy.driver_session import Result
from cluster.reports.resume_file import ResumeFile, as_result, prompts_key, result_fields
from parallel.messages import Submit


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPair:
    """The results of one prompt, without and with drafts."""

    category: str
    plain: Result
    drafted: Result


def find_pair(kept: ResumeFile, drafter: str, submit: Submit, category: str) -> EvalPair | None:
    """Return the stored pair of a drafter and a prompt, if any."""
    found = kept.find(_key(drafter, submit))
    if found is None:
        return None
    plain, drafted = (as_result(submit, found[kind]) for kind in ("plain", "drafted"))
    return EvalPair(category=category, plain=plain, drafted=drafted)


def keep_pair(kept: ResumeFile, drafter: str, pair: EvalPair) -> None:
    """Write a pair to disk."""
    figures = {"plain": result_fields(pair.plain), "drafted": result_fields(pair.drafted)}
    kept.store(_key(drafter, pair.plain.submit), figures)


def _key(drafter: str, submit: Submit) -> str:
    return f"{drafter} {prompts_key([submit])}"
