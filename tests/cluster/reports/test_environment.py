"""A report names what its figures depend on."""

import os
import re

from cluster.reports.environment import environment


def test_the_environment_has_versions_hardware_and_the_commit() -> None:
    found = environment()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", str(found["date"]))
    assert found["cores"] == os.cpu_count()
    assert found["cpu"]
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert packages["torch"]
    commit = found["commit"]  # None where tests run without git
    assert commit is None or re.fullmatch(r"[0-9a-f]{12}(-dirty)?", str(commit))
