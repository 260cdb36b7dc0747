import json
from pathlib import Path

import pytest

from parallel.decoding.types import ConstraintKind
from runtime.constraints.json_tasks import JSON_TASKS, read_json_tasks
from runtime.errors import ConfigError

LINE = {"prompt": "A number?", "json_schema": {"type": "integer"}}


def written(folder: Path, *lines: object) -> Path:
    file = folder / "tasks.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_the_tasks_of_the_package_have_prompts_and_schemas() -> None:
    tasks = read_json_tasks(JSON_TASKS, limit=None)
    assert len(tasks) == len({task.prompt for task in tasks}) >= 16
    assert {task.constraint.kind for task in tasks} == {ConstraintKind.JSON_SCHEMA}
    assert read_json_tasks(JSON_TASKS, limit=2) == tasks[:2]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), "is empty"),
        ((LINE, {"prompt": "x"}), "line 2: its fields are prompt"),
        (({**LINE, "regex": "a"},), "its fields are json_schema, prompt, regex"),
        (({**LINE, "json_schema": "integer"},), "json_schema is no schema"),
        (({**LINE, "prompt": 3},), "prompt is"),
    ],
)
def test_a_file_that_is_no_list_of_tasks_is_refused_by_its_line(
    tmp_path: Path, lines: tuple[object, ...], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_json_tasks(written(tmp_path, *lines), limit=None)
