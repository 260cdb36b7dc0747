"""When leader and drafter worked, as they record it."""

from cluster.experiment.timeline_chart import middle, overlap, stretch_s
from runtime.timeline import PhaseSpan, SpanKind, SpanRecorder
from tests.support.rig import Rig, make_submit


def test_leader_and_drafter_record_each_forward_and_each_draft() -> None:
    rig = Rig()
    rig.attach_model()
    submit = make_submit(mode="speculative", draft_length=3)
    outcome = rig.run([submit])[0]
    assert outcome.finished is not None
    spans = rig.recorder.take()
    rig.close()
    forwards = [span for span in spans if span.phase is SpanKind.VERIFY]
    drafts = [span for span in spans if span.phase is SpanKind.DRAFT and span.size]
    assert len(forwards) == outcome.finished.stats.rounds
    assert all(span.end_s >= span.start_s for span in spans)
    # Draft, then verify: a forward begins when its draft has ended.
    for draft in drafts:
        assert not any(f.start_s < draft.end_s and draft.start_s < f.end_s for f in forwards)
    assert {span.size for span in forwards} >= {4}
    assert max(span.size for span in drafts) == 3
    assert not any(span.size for span in rig.recorder.take())  # at most the message of the end
    assert rig.recorder.take() == ()


def test_a_recorder_keeps_the_last_spans() -> None:
    recorder = SpanRecorder(2)
    for start_s in range(5):
        recorder.record(SpanKind.VERIFY, start_s, start_s + 0.5, 1)
    assert [span.start_s for span in recorder.take()] == [3, 4]


def test_the_overlap_of_drafting_and_verifying() -> None:
    spans = [
        PhaseSpan(SpanKind.VERIFY, 0.0, 4.0, 1),
        PhaseSpan(SpanKind.DRAFT, 3.0, 5.0, 1),
        PhaseSpan(SpanKind.VERIFY, 6.0, 9.0, 1),
        PhaseSpan(SpanKind.DRAFT, 6.0, 8.0, 1),
    ]
    assert overlap(spans) == 3.0 / 4.0
    assert overlap(spans[:1]) == 0.0
    assert middle(spans, stretch_s(spans)) == spans
