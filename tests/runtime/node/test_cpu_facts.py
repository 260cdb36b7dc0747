"""The CPU's facts are read from the kernel's description."""

import os
from pathlib import Path

import psutil

from runtime.node.cpu_facts import CpuFacts, read_cpu_facts, resident_bytes

X86 = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu avx2 sse4_2 avx512bw

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimddp i8mm\n"


def test_the_first_core_is_described(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(X86)
    assert read_cpu_facts(file) == CpuFacts(model="AMD EPYC", instructions=("avx2", "avx512bw"))
    file.write_text(ARM)
    assert read_cpu_facts(file).instructions == ("asimddp", "i8mm")


def test_a_system_without_description_still_has_a_name(tmp_path: Path) -> None:
    facts = read_cpu_facts(tmp_path / "nothing")
    assert facts.model
    assert facts.instructions == ()


def test_memory_is_summed_over_processes() -> None:
    mine = resident_bytes([os.getpid()])
    assert 1e6 < mine < psutil.virtual_memory().total
    assert resident_bytes([os.getpid()] * 2) > 1.5 * mine
