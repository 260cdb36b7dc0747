"""Report how engines of JSON schemas do on the set: coverage, and what they reject or let pass.

python -m tests.support.schema_coverage                     this project alone
python -m tests.support.schema_coverage --beside            and xgrammar, outlines-core if installed

For each engine, as in JSONSchemaBench (Geng et al., arXiv 2501.10868): the share of schemas that it
compiles; over-constrained, the share of those of which it rejects a valid instance;
under-constrained, the share of which it accepts an invalid one. Instances are texts as Python's
json writes them.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runtime.models.checkpoint import SMOLLM2, resolve_model
from runtime.models.tokenizer import Tokenizer
from tests.support.schema_engines import OutlinesCore, Paceline, SchemaEngine, XGrammar
from tests.support.schema_set import Case, read_cases

VOCAB = 49152
"""SmolLM2's."""


@dataclass
class Report:
    """What one engine did."""

    compiled: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """The error of each schema that did not compile."""
    over: list[str] = field(default_factory=list)
    """Schemas of which a valid instance was rejected."""
    under: list[str] = field(default_factory=list)
    """Schemas of which an invalid instance was accepted."""
    compile_s: list[float] = field(default_factory=list)


def measure(engine: SchemaEngine, cases: Sequence[Case]) -> Report:
    """Return what an engine does with every schema and instance."""
    report = Report()
    for case in cases:
        start_s = time.perf_counter()
        try:
            accepts = engine.compile(case.schema)
        except Exception as error:  # any engine, any error: it does not cover the schema
            report.refused[case.name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            continue
        report.compile_s.append(time.perf_counter() - start_s)
        report.compiled += 1
        if not all(map(accepts, case.valid)):
            report.over.append(case.name)
        if any(map(accepts, case.invalid)):
            report.under.append(case.name)
    return report


def table(reports: dict[str, Report], cases: Sequence[Case]) -> str:
    """Return the reports in Markdown."""
    lines = [
        "| engine | compiles | over-constrained | under-constrained | neither | median compile |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, report in reports.items():
        num = max(report.compiled, 1)
        neither = report.compiled - len({*report.over, *report.under})
        times = sorted(report.compile_s) or [0.0]
        lines.append(
            f"| {name} | {report.compiled} of {len(cases)} ({report.compiled / len(cases):.1%}) "
            f"| {len(report.over)} ({len(report.over) / num:.1%}) "
            f"| {len(report.under)} ({len(report.under) / num:.1%}) "
            f"| {neither} ({neither / len(cases):.1%}) "
            f"| {times[len(times) // 2] * 1000:.1f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table and what each engine got wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beside", action="store_true", help="other engines, where installed")
    parser.add_argument("--details", action="store_true", help="name the schemas")
    options = parser.parse_args()
    directory = resolve_model(SMOLLM2)
    tokenizer = Tokenizer.load(directory)
    opened: list[Callable[[], SchemaEngine]] = [lambda: Paceline(tokenizer, VOCAB)]
    if options.beside:
        opened += [lambda: XGrammar(tokenizer, directory, VOCAB), OutlinesCore]
    cases, reports = read_cases(), dict[str, Report]()
    for make in opened:
        try:
            engine = make()
        except ImportError as error:
            print(f"skipped: {error}")
            continue
        name = f"{type(engine).__name__} {engine.version}, by {engine.reads}"
        reports[name] = measure(engine, cases)
    print(table(reports, cases))
    if options.details:
        for name, report in reports.items():
            print(f"\n{name}")
            found = {"refused": report.refused, "over": report.over, "under": report.under}
            print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
