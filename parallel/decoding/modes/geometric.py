"""Sums of powers of the acceptance rate, which the expected tokens of several modes are made of."""


def geometric_sum(alpha: float, terms: float) -> float:
    """Return 1 + alpha + ... + alpha^(terms - 1)."""
    if alpha == 1:
        return float(terms)
    found: float = (1 - alpha**terms) / (1 - alpha)
    return found
