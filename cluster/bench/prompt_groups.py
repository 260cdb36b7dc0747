"""The requests of a benchmark in groups that are measured together."""

from collections.abc import Sequence

from cluster.options.generate_options import PromptOptions
from parallel.messages import Submit
from runtime.checking.prompt_files import read_prompts


def prompt_groups(
    prompts: PromptOptions, submits: Sequence[Submit], *, by_category: bool
) -> dict[str, list[Submit]]:
    """Return the requests by the category of their prompts, or all as one group."""
    if not by_category or prompts.prompts is None:
        return {"all": list(submits)}
    groups: dict[str, list[Submit]] = {}
    records = read_prompts(prompts.prompts, limit=prompts.num_prompts)
    for record, submit in zip(records, submits, strict=True):
        groups.setdefault(record.category or "no category", []).append(submit)
    return groups
