"""How many machines and directions the counters of a shared-seed run can tell apart."""

MAX_MACHINES = 1 << 16
MAX_SAMPLES = 1 << 16
