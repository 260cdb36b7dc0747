"""A job that cannot fit is rejected with its parts and what would make them smaller."""

import pytest

from runtime.errors import ConfigError
from runtime.training.planning.fit_check import check_fits, gib
from runtime.training.planning.job_plan import JobPlan
from runtime.training.planning.traced_chunk import ChunkShape

GIB = 1024**3
SHAPE = ChunkShape(rows=1, length=8, num_learned=1, is_masked=False)


def plan(num_ranks: int = 1, **worker: int) -> JobPlan:
    return JobPlan(
        num_trained=1,
        num_workers=2,
        num_ranks=num_ranks,
        shape=SHAPE,
        worker={name.replace("_", " "): size * GIB for name, size in worker.items()},
        driver={"optimizer state": 2 * GIB},
        shared={"parameters": GIB},
        step={"parameters": 1, "gradients": 1},
    )


def refused(one: JobPlan, nodes: list[int], *, num_workers: int = 2) -> str:
    with pytest.raises(ConfigError) as caught:
        check_fits(one, [node * GIB for node in nodes], num_workers=num_workers)
    return str(caught.value)


def test_what_fits_is_accepted_to_the_last_byte() -> None:
    check_fits(plan(base_weights=4), [11 * GIB], num_workers=2)
    assert "do not fit" in refused(plan(base_weights=4), [10])
    check_fits(plan(base_weights=4), [7 * GIB, 4 * GIB], num_workers=2)
    check_fits(plan(2, base_weights=2), [11 * GIB], num_workers=2)


def test_a_worker_does_not_stretch_over_nodes() -> None:
    found = refused(plan(base_weights=4), [6, 6, 3])
    assert "2 workers of 4.00 GiB (base weights 4.00 GiB) and a driver of 3.00 GiB" in found
    assert "available: 6.00 GiB, 6.00 GiB, 3.00 GiB" in found


@pytest.mark.parametrize(
    ("part", "remedy"),
    [
        ("base_weights", '`base_precision` "int4"'),
        ("activations", "`gradient_checkpointing`"),
        ("logits", "Lower `optimizer.microbatch` or `data.max_length`"),
        ("gradients", '`method` "lora"'),
    ],
)
def test_the_largest_part_has_a_remedy(part: str, remedy: str) -> None:
    found = refused(plan(**{part: 9, "conversion": 1}), [12])
    assert remedy in found
    assert "take fewer workers (`workers.count`, `workers.min`)" in found
    assert "fewer workers" not in refused(plan(**{part: 9}), [8], num_workers=1)


def test_libraries_that_processes_share_reject_no_job() -> None:
    check_fits(plan(base_weights=4, libraries=3), [11 * GIB], num_workers=2)


def test_ranks_are_counted_as_such() -> None:
    found = refused(plan(2, base_weights=4), [10])
    assert "not enough memory: 4 ranks, 2 for each of 2 workers, of 4.00 GiB (base" in found
    found = refused(plan(base_weights=4), [6], num_workers=1)
    assert "not enough memory: 1 worker of 4.00 GiB (base" in found


def test_a_driver_that_does_not_fit_is_named_as_such() -> None:
    assert '`method` "lora" trains fewer numbers' in refused(plan(base_weights=1), [2, 90])


def test_sizes_are_written_as_people_read_them() -> None:
    assert [gib(size) for size in (3 * GIB, 0.02 * GIB, 1024**2)] == [
        "3.00 GiB",
        "0.02 GiB",
        "1.0 MiB",
    ]
