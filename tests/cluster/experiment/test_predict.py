"""The predictions for a point, compared with formulas."""

from pathlib import Path

import pytest

from cluster.experiment.predict import Prediction, predict
from cluster.experiment.sweep_points import GeneratePoint, points_of
from parallel.decoding.types import DecodeMode
from parallel.rounds.cost import throughput
from parallel.training.gradient_coding.drawn import slowness
from runtime.training.chunk_work import ChunkWork
from runtime.training.timed_worker import TimedSpec, TimedWorker
from tests.support.experiment_files import SMALL, TRAIN, generate_points, loaded

LONG = SMALL.replace("num = 2", "num = 4").replace("max_tokens = 12", "max_tokens = 400")


def test_predictions_match_the_cost_formulas(tmp_path: Path) -> None:
    text = LONG + '\n[network]\nlink = "0ms"\nhost = "0ms"\n'
    experiment = loaded(tmp_path, text)
    for point in generate_points(experiment):
        found = predict(experiment, point)
        assert found is not None
        assert found.rate == pytest.approx(formula(point, found), rel=0.02)


def formula(point: GeneratePoint, found: Prediction) -> float:
    """Return the tokens per second of the cost formulas, at the simulated acceptance."""
    mode, forward_s, alpha = DecodeMode(point.mode), 0.004 + 0.016 / point.tp, 0.8
    if mode is not DecodeMode.AUTOREGRESSIVE:
        alpha = found.accepted / (found.accepted + found.rejected)
    return throughput(
        mode,
        alpha=alpha,
        draft_length=3,
        target_s=lambda _: forward_s,
        draft_s=lambda steps: 0.003 * steps,
    )


def test_points_of_several_acceptances_and_draft_times_have_their_own(tmp_path: Path) -> None:
    text = LONG.replace("tp = [1, 2]", 'alpha = [0.5, 0.9]\ndraft = ["3ms", "9ms"]')
    experiment = loaded(tmp_path, text)
    points = generate_points(experiment)
    plain = [point for point in points if not point.drafts]
    assert len(plain) == 1
    drafting = [point for point in points if point.mode is DecodeMode.PEARL]
    assert len({point.key for point in drafting}) == len({p.deployment for p in drafting}) == 4
    found = {point: predict(experiment, point) for point in drafting}
    for point, prediction in found.items():
        assert prediction is not None
        alpha = prediction.accepted / (prediction.accepted + prediction.rejected)
        assert alpha == pytest.approx(point.alpha, abs=0.05)
    by_time = {p.draft or 0.0: r.rate for p, r in found.items() if p.alpha == 0.9 and r is not None}
    assert by_time[min(by_time)] > 1.2 * by_time[max(by_time)]


def test_slow_links_and_exchanges_slow_the_modes_that_use_them(tmp_path: Path) -> None:
    text = LONG.replace("alpha = 0.8", "alpha = 0.8\nexchanges = 8")
    near = loaded(tmp_path, text)
    far = loaded(tmp_path, text + '\n[network]\nlink = "20ms"\ninside = "0.5ms"\n')
    for point in generate_points(near):
        before, after = predict(near, point), predict(far, point)
        assert before is not None
        assert after is not None
        single = point.tp == 1 and point.mode == "autoregressive"
        assert (after.rate == before.rate) is single
        assert after.rate <= before.rate


def test_replicas_share_the_requests(tmp_path: Path) -> None:
    text = LONG.replace("tp = [1, 2]", "replicas = [1, 2, 4]")
    experiment = loaded(
        tmp_path, text.replace('"autoregressive", "speculative", "pearl"', '"autoregressive"')
    )
    rates = [found.rate for p in points_of(experiment) if (found := predict(experiment, p))]
    assert rates[1] == pytest.approx(2 * rates[0])
    assert rates[2] == pytest.approx(4 * rates[0])


def test_training_is_predicted_with_the_stragglers_that_the_workers_draw(tmp_path: Path) -> None:
    experiment = loaded(tmp_path, TRAIN)
    found = {point.key: predict(experiment, point) for point in points_of(experiment)}
    ideal = found["w2-uncoded-1x"]
    slow, plain = found["w2-uncoded-3x"], found["w2-pull-1x"]
    assert ideal is not None
    assert slow is not None
    assert plain is not None
    assert ideal.step_s == pytest.approx(0.008 + 0.0001)
    num_slow = sum(
        max(slowness(0, job, worker, 0, slow=0.05, factor=3) for worker in range(2)) > 1
        for job in range(10)
    )
    assert num_slow > 0
    assert slow.step_s == pytest.approx(0.0081 + 0.016 * num_slow / 10)
    # Four chunks for each worker, none of them twice.
    assert plain.step_s == pytest.approx(4 * (0.002 + 0.0001))
    waits: list[float] = []
    spec = TimedSpec(sample_s=0.001, num_samples=16, slow=0.05, factor=3)
    worker = TimedWorker(spec, sleep=waits.append)
    for job in range(10):
        parameters = TimedWorker(spec)._sum
        work = ChunkWork(version=job, key=(job, 0, 0), samples=(0, 1))
        worker.work(work, parameters, 0, 0)
    drawn = [slowness(0, job, 0, 0, slow=0.05, factor=3) for job in range(10)]
    assert [wait > 0.004 for wait in waits] == [each > 1 for each in drawn]


def test_models_without_figures_and_hanging_workers_have_no_prediction(
    tmp_path: Path,
) -> None:
    text = 'out = "x"\n[model]\ntarget = "smollm2-135m"\nprompt = "a"\n[sweep]\ntp = [1]\n'
    experiment = loaded(tmp_path, text)
    assert predict(experiment, points_of(experiment)[0]) is None
    hanging = loaded(tmp_path, TRAIN.replace("factor = [1, 3]", "factor = [inf]"))
    assert predict(hanging, points_of(hanging)[0]) is None


def test_drafters_that_share_outcomes_are_an_axis_of_their_own(tmp_path: Path) -> None:
    text = LONG.replace("alpha = 0.8", "alpha = 0.8\nbeta = 0.3").replace(
        "tp = [1, 2]", "drafters = [1, 3]"
    )
    modes = 'mode = ["autoregressive", "outcomes"]'
    text = text.replace('mode = ["autoregressive", "speculative", "pearl"]', modes)
    points = generate_points(loaded(tmp_path, text))
    assert [point.key for point in points] == [
        "tp1-autoregressive",
        "tp1-d1-g3-outcomes",
        "tp1-d1-m3-g3-outcomes",
    ]
    assert [point.devices for point in points] == [1, 2, 4]
    experiment = loaded(tmp_path, text)
    one, three = (predict(experiment, point) for point in points[1:])
    assert one is not None
    assert three is not None
    assert three.rate > one.rate
