"""Sums of powers of the acceptance rate, which the expected tokens of several modes are made of."""


def geometric_sum(alpha: float, terms: int) -> float:
    """Return 1 + alpha + ... + alpha^(terms - 1)."""
    return float(terms) if alpha == 1 else (1 - alpha**terms) / (1 - alpha)
