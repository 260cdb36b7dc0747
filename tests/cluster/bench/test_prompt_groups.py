"""Requests are grouped by the category of their prompts."""

import json
from pathlib import Path

from cluster.bench.prompt_groups import prompt_groups
from cluster.options.generate_options import PromptOptions
from tests.support.rig import make_submit


def test_prompts_of_a_category_are_measured_together(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines: list[dict[str, str]] = [{"prompt": "a", "category": "qa"}, {"prompt": "b"}]
    lines += [{"prompt": "c", "category": "qa"}, {"prompt": "d", "category": "math"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = PromptOptions(prompts=file, num_prompts=3)
    submits = [make_submit(number, prompt=(number + 1,)) for number in range(3)]
    assert prompt_groups(options, submits, by_category=True) == {
        "qa": [submits[0], submits[2]],
        "no category": [submits[1]],
    }
    assert prompt_groups(options, submits, by_category=False) == {"all": submits}
