"""Draw docs/overlap.svg from recorded timelines: python -m tests.support.draw_overlap."""

from collections.abc import Sequence
from pathlib import Path

from cluster.experiment.store import read_timeline
from runtime.timeline import PhaseSpan, SpanKind

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "overlap.svg"
_TRACES = ROOT / "docs" / "experiments" / "timeline"
_PANELS = (
    ("tp1-d1-g5-speculative", "draft, then verify"),
    ("tp1-d1-g5-pearl", "PEARL: draft while verifying"),
)
_NUM_TOKENS = 40
_WIDTH, _LEFT, _LANE, _PANEL = 960, 76, 30, 112
_COLORS = {SpanKind.VERIFY: "#3b6fb6", SpanKind.DRAFT: "#e8973a"}
_LANES = {SpanKind.DRAFT: 0, SpanKind.VERIFY: 1}
_NAMES = {SpanKind.DRAFT: "drafter", SpanKind.VERIFY: "target"}


def drawing() -> str:
    """Return the figure: both runs whole, one below the other, at the same scale."""
    runs = [(name, read_timeline(_TRACES, key)) for key, name in _PANELS]
    longest_s = max(_length_s(spans) for _, spans in runs)
    scale = (_WIDTH - _LEFT - 24) / longest_s
    shapes: list[str] = []
    for number, (name, spans) in enumerate(runs):
        shapes += _panel(name, spans, 12 + number * _PANEL, scale)
    height = 4 + len(runs) * _PANEL
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="14" fill="#222">',
            "<title>When target and drafter work, in two recorded runs</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *shapes,
            "</svg>",
            "",
        ]
    )


def _panel(name: str, spans: Sequence[PhaseSpan], top: int, scale: float) -> list[str]:
    start_s = min(span.start_s for span in spans)
    shapes = [
        f'<text x="{_LEFT}" y="{top + 16}" font-weight="bold">{name}'
        f'<tspan font-weight="normal" dx="6">({_NUM_TOKENS} tokens in {_length_s(spans):.2f} s)'
        "</tspan></text>"
    ]
    for kind, lane in _LANES.items():
        y = top + 26 + lane * (_LANE + 4)
        shapes.append(f'<text x="12" y="{y + 20}">{_NAMES[kind]}</text>')
        for span in spans:
            width = (span.end_s - span.start_s) * scale
            if span.phase is kind and width >= 1:
                x = _LEFT + (span.start_s - start_s) * scale
                shapes.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="{_LANE}" rx="3" '
                    f'fill="{_COLORS[kind]}"/>'
                )
    return shapes


def _length_s(spans: Sequence[PhaseSpan]) -> float:
    return max(span.end_s for span in spans) - min(span.start_s for span in spans)


if __name__ == "__main__":
    FIGURE.write_text(drawing(), encoding="utf-8")
