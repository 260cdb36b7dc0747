"""A chart of when the drafter drafts and the target verifies, from recorded spans.

Where drafts are made ahead, a mark at each verdict tells whether one was ready for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.charts.figure import new_stack, save_small_png
from cluster.experiment.sweep_points import KEY_LEGEND
from runtime.timeline import PhaseSpan, SpanKind

_FORWARDS = 14
"""The number of target forwards in a chart."""
_LANES = (
    (SpanKind.VERIFY, "target verifies", "tab:blue"),
    (SpanKind.WAIT, "target waits", "tab:red"),
    (SpanKind.DRAFT, "drafter drafts", "tab:orange"),
)
_VERDICTS = (
    (SpanKind.HIT, "draft is ready", "tab:green", "o"),
    (SpanKind.MISS, "none is ready", "black", "x"),
)


def plot_timelines(timelines: Mapping[str, Sequence[PhaseSpan]], file: Path) -> None:
    """Draw stretches of the same length from the middle of each run.

    Args:
        timelines: the spans by label.
        file: the path of the picture.
    """
    figure, panels = new_stack(len(timelines), width=12, height=0.7 + 1.15 * len(timelines))
    length_s = min(stretch_s(spans) for spans in timelines.values())
    for panel, (name, spans) in zip(panels, timelines.items(), strict=True):
        shown = middle(spans, length_s)
        start_s = min(span.start_s for span in shown)
        for phase, label, color in _LANES:
            mine = [span for span in shown if span.phase is phase]
            bars = [(1000 * (s.start_s - start_s), 1000 * (s.end_s - s.start_s)) for s in mine]
            lane = 0.0 if phase is SpanKind.DRAFT else 1.0
            panel.broken_barh(
                bars,
                (lane + 0.08, 0.84),
                color=color,
                edgecolor="white",
                linewidth=0.8,
                label=label,
            )
        for phase, label, color, marker in _VERDICTS:
            at = [1000 * (span.start_s - start_s) for span in shown if span.phase is phase]
            if at:
                panel.plot(at, [1.0] * len(at), marker, color=color, markersize=4, label=label)
        panel.set_yticks([0.5, 1.5], ["drafter", "target"])
        panel.set_ylim(0, 2)
        panel.set_title(
            f"{name}: {overlap(shown):.0%} of drafting overlaps", fontsize=9, loc="left"
        )
    panels[-1].set_xlim(0, 1000 * length_s)
    panels[-1].set_xlabel(f"milliseconds\n{KEY_LEGEND}", fontsize=8)
    found = [panel.get_legend_handles_labels() for panel in panels]
    entries = {label: handle for each in found for handle, label in zip(*each, strict=True)}
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper right", ncols=5, fontsize=8
    )
    save_small_png(figure, file)


def stretch_s(spans: Sequence[PhaseSpan]) -> float:
    """Return the duration of several consecutive forwards in the middle of a run."""
    some = _some_forwards(spans)
    return some[-1].end_s - some[0].start_s


def middle(spans: Sequence[PhaseSpan], length_s: float) -> list[PhaseSpan]:
    """Return the spans, clipped to an interval of this length that starts with a forward."""
    start_s = _some_forwards(spans)[0].start_s
    end_s = start_s + length_s
    return [
        replace(span, start_s=max(span.start_s, start_s), end_s=min(span.end_s, end_s))
        for span in spans
        if span.end_s > start_s and span.start_s < end_s
    ]


def _some_forwards(spans: Sequence[PhaseSpan]) -> list[PhaseSpan]:
    forwards = sorted((s for s in spans if s.phase is SpanKind.VERIFY), key=lambda s: s.start_s)
    first = max(0, (len(forwards) - _FORWARDS) // 2)
    return forwards[first : first + _FORWARDS]


def overlap(spans: Sequence[PhaseSpan]) -> float:
    """Return the share of the drafting time that overlaps with verification."""
    verifying = [span for span in spans if span.phase is SpanKind.VERIFY]
    drafting = [span for span in spans if span.phase is SpanKind.DRAFT]
    drafting_s = sum(span.end_s - span.start_s for span in drafting)
    both_s = sum(
        max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))
        for a in drafting
        for b in verifying
    )
    return both_s / drafting_s if drafting_s else 0.0
