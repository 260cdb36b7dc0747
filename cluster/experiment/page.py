"""The report of an experiment as one self-contained HTML page."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment

from cluster.experiment.experiment_config import Experiment
from cluster.experiment.result_rows import PointRow, varying
from cluster.experiment.result_tables import axis_text, number
from cluster.experiment.sweep_points import KEY_LEGEND

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
img { max-width: 100%; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.2rem 0.6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.far { color: #b00020; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 0.8rem; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
<p>{{ picture.text }}</p>
<img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">
{% endfor %}
<h2>All points</h2>
<div class="wide"><table>
<tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for cells in body %}<tr>{% for cell in cells %}<td{% if cell.far %} class="far"{% endif %}>{{ cell.text }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if errors %}<h2>Failed</h2><p>{{ legend }}</p><ul>{% for error in errors %}<li>{{ error }}</li>{% endfor %}</ul>{% endif %}
<h2>Experiment</h2>
<pre>{{ config }}</pre>
<h2>Measured on</h2>
<pre>{{ environment }}</pre>
</body>
</html>
"""  # noqa: E501  (it is HTML)
_FAR = 0.05
_RATIO, _SAME = "measured / simulated", "same tokens"


def write_page(
    file: Path,
    experiment: Experiment,
    rows: Sequence[PointRow],
    pictures: Sequence[tuple[str, str, Path]],
    environment: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
        file: the path of the page.
        experiment: the experiment.
        rows: the rows of its points.
        pictures: the title, explanation and PNG file of each picture.
        environment: the versions and hardware of the measurements; empty without measurements.
    """
    columns, body = _table(rows)
    template = Environment(autoescape=True).from_string(_PAGE)
    text = template.render(
        title=experiment.title or "Experiment",
        summary=summary(rows),
        pictures=[
            {"title": title, "text": words, "data": base64.b64encode(png.read_bytes()).decode()}
            for title, words, png in pictures
        ],
        columns=columns,
        body=body,
        legend=KEY_LEGEND if experiment.kind == "generate" else "",
        errors=[f"{row.point.key}: {error}" for row in rows for error in row.errors],
        config=json.dumps(_config(experiment), indent=1),
        environment=json.dumps(dict(environment), indent=1) if environment else "nothing measured",
    )
    file.write_text(text, encoding="utf-8")


def _config(experiment: Experiment) -> dict[str, object]:
    return experiment.model_dump(mode="json", exclude_defaults=True, exclude={"out", "ray"})


def summary(rows: Sequence[PointRow]) -> str:
    """Return a sentence on how close the predictions are to the measurements."""
    off = [abs(row.ratio - 1) for row in rows if row.ratio is not None]
    measured = sum(bool(row.runs) for row in rows)
    text = f"{len(rows)} points, {measured} measured"
    if off:
        within = sum(each <= _FAR for each in off)
        text += (
            f"; {within} of {len(off)} within 5 % of the simulator, the farthest "
            f"{100 * max(off):.1f} % off"
        )
    return text + "."


def _table(rows: Sequence[PointRow]) -> tuple[list[str], list[list[dict[str, object]]]]:
    """Return the headings and the cells, without columns that are empty for all points."""
    axes = varying([row.point for row in rows]) or ["devices"]
    table = [_cells(row, axes) for row in rows]
    names = [name for name in table[0] if any(cells[name] != "-" for cells in table)]
    body = [
        [{"text": cells[name], "far": _is_far(row, name, cells[name])} for name in names]
        for row, cells in zip(rows, table, strict=True)
    ]
    return names, body


def _cells(row: PointRow, axes: Sequence[str]) -> dict[str, str]:
    found = row.predicted
    efficiency = row.efficiency if row.efficiency is not None else row.predicted_efficiency
    return {
        **{name.replace("_", " "): axis_text(row, name) for name in axes},
        "devices": str(row.point.devices),
        "measured": number(row.rate),
        "lowest": number(row.low),
        "highest": number(row.high),
        "simulated": number(found.rate if found else None),
        _RATIO: number(row.ratio, 3),
        "speed-up": number(row.speedup),
        "simulated speed-up": number(row.predicted_speedup),
        "efficiency": number(efficiency),
        "overlap": number(row.figure("overlap")),
        "simulated overlap": number(found.overlap if found else None),
        "tokens a round": number(row.figure("tokens_per_round")),
        _SAME: {True: "yes", False: "NO", None: "-"}[row.identical],
    }


def _is_far(row: PointRow, name: str, text: str) -> bool:
    off = row.ratio is not None and abs(row.ratio - 1) > _FAR
    return (name == _RATIO and off) or (name == _SAME and text == "NO")
