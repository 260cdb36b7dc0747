"""The reports of rounds: what they hold, and that they cost nothing while no client watches."""

from parallel.decoding.round_state import Commit
from parallel.messages import EngineRound, Period, Ping, Pong
from runtime.engine.round_log import RoundLog
from runtime.timeline import SpanKind, SpanRecorder
from tests.support.rig import Rig, make_submit

COMMIT = Commit(token_ids=(4, 5, 6), num_drafted=5, num_accepted=2, rejected=True)


def watched_log(most: int = 10) -> RoundLog:
    log = RoundLog(most=most)
    log.take(0.0)
    return log


def end_round(log: RoundLog, start_s: float) -> None:
    log.record(SpanKind.VERIFY, start_s, start_s + 0.5, 6)
    log.end_round([COMMIT], reads_prompts=False, now_s=start_s + 0.5)


def test_a_report_has_the_times_and_the_counts_of_its_round() -> None:
    log = watched_log()
    log.asked(1, 7, 1.0)
    log.record(SpanKind.WAIT, 1.0, 1.25, 0)
    log.answered(1, 7, 0.25)
    end_round(log, 1.25)
    assert log.take(2.0) == (
        EngineRound(
            forward=Period(1.25, 1.75),
            waits=(Period(1.0, 1.25),),
            drafts=(Period(1.0, 1.25),),
            num_samples=1,
            num_tokens=3,
            num_drafted=5,
            num_accepted=2,
            num_rejected=1,
        ),
    )
    assert log.take(2.0) == ()


def test_a_drafter_starts_its_second_request_after_its_first() -> None:
    log = watched_log()
    log.asked(1, 1, 1.0)
    log.asked(1, 2, 1.1)
    log.asked(2, 3, 1.1)
    log.answered(1, 1, 0.5)
    log.answered(1, 2, 0.5)
    log.answered(2, 3, 0.5)
    log.answered(2, 3, 0.5)  # an answer that was not asked for has no time
    end_round(log, 2.5)
    (report,) = log.take(3.0)
    assert report.drafts == (Period(1.0, 1.5), Period(1.5, 2.0), Period(1.1, 1.6))


def test_nothing_is_kept_while_no_client_watches_and_the_spans_reach_the_recorder() -> None:
    spans = SpanRecorder(10)
    log = RoundLog(spans)
    end_round(log, 1.0)
    assert log.take(2.0) == ()
    end_round(log, 2.0)
    end_round(log, 20.0)  # long after the last take
    assert log.take(21.0) == ()
    assert [span.start_s for span in spans.take()] == [1.0, 2.0, 20.0]


def test_of_many_rounds_the_latest_are_kept() -> None:
    log = watched_log(most=3)
    for number in range(5):
        end_round(log, float(number) / 2)
    assert [report.forward.start_s for report in log.take(3.0)] == [1.0, 1.5, 2.0]


def test_an_engine_reports_every_round_once_with_drafts_that_overlap_forwards() -> None:
    rig = Rig()
    rig.attach_model(noise=0.2)
    link = rig.driver()

    def ping() -> Pong:
        link.send(Ping(number=1, wants_rounds=True))
        while not isinstance(message := link.recv(10.0), Pong):
            assert message is not None
        return message

    assert ping().rounds == ()
    outcome = rig.run([make_submit(1, max_tokens=60)])[1]
    pong = ping()
    assert ping().rounds == ()
    rig.close()
    assert outcome.finished is not None
    stats = outcome.finished.stats
    assert len(pong.rounds) == stats.rounds
    assert sum(report.num_tokens for report in pong.rounds) >= len(outcome.token_ids)
    assert sum(report.num_drafted for report in pong.rounds) == stats.drafted > 0
    assert any(report.num_rejected for report in pong.rounds)
    ends = [report.forward.end_s for report in pong.rounds]
    assert ends == sorted(ends)
    assert ends[-1] <= pong.now_s
    drafts = [period for report in pong.rounds for period in report.drafts]
    assert drafts
    assert all(period.start_s <= period.end_s <= pong.now_s for period in drafts)
