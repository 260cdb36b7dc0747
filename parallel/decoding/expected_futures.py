"""What samples have learned of a constraint's futures: how likely the model completes each prefix.

The expected future of a prefix is the probability that the model, left alone, continues it to an
output that the constraint allows. It is 1 until something is known, which is never too low, and
falls as samples read what follows (ASAp of Park et al., "Grammar-Aligned Decoding", arXiv
2405.21047, Algorithm 1). Only tokens that a sample took have a node; all other legal tokens of a
prefix are one number.
"""

import math

from torch import Tensor

MAX_NODES = 65536
"""Of one tree, a few hundred bytes each; what would be beyond them stays unknown."""


class FutureNode:
    """A prefix of outputs, and the prefixes that continue it by one token."""

    __slots__ = ("_log_future", "_log_unexplored", "children", "log_prob", "parent")

    def __init__(self, parent: "FutureNode | None", log_prob: float) -> None:
        """Add nothing known.

        Args:
            parent: the prefix without its last token.
            log_prob: of its last token after the parent, at the unconstrained model.
        """
        self.parent = parent
        self.log_prob = log_prob
        self.children: dict[int, FutureNode] = {}
        """By the token that continues the prefix."""
        self._log_unexplored: float | None = None
        self._log_future: float | None = 0.0

    @property
    def is_read(self) -> bool:
        """Whether it is known which tokens may follow."""
        return self._log_unexplored is not None

    def read(self, log_unexplored: float) -> None:
        """Set what legal tokens without a node have together, as a logarithm."""
        self._log_unexplored = log_unexplored
        node: FutureNode | None = self
        while node is not None and node._log_future is not None:  # those above are stale already
            node._log_future = None
            node = node.parent

    @property
    def log_future(self) -> float:
        """The logarithm of the expected future; without recursion, since outputs are long."""
        waiting = [self]
        while waiting:
            node = waiting[-1]
            stale = [one for one in node.children.values() if one._log_future is None]
            if node._log_future is None and stale:
                waiting += stale
                continue
            waiting.pop()
            if node._log_future is None:
                node._log_future = node._summed()
        assert self._log_future is not None
        return self._log_future

    def _summed(self) -> float:
        assert self._log_unexplored is not None
        parts = [self._log_unexplored]
        parts += [one.log_prob + one.log_future for one in self.children.values()]
        most = max(parts)
        if most == -math.inf:
            return most
        return most + math.log(sum(math.exp(part - most) for part in parts))


class FutureTree:
    """The expected futures of one prompt under one constraint; all its samples share them."""

    def __init__(self, *, max_nodes: int = MAX_NODES) -> None:
        self.root = FutureNode(None, 0.0)
        self.num_nodes = 1
        self._max_nodes = max_nodes

    def extend(self, node: FutureNode, token: int | None, log_probs: Tensor, legal: Tensor) -> None:
        """Learn what may follow a prefix, and that a sample continued with a token.

        Args:
            node: the prefix.
            token: what the sample took; None if it ended.
            log_probs: [vocab_size], float64, of the model without the constraint.
            legal: [vocab_size], bool, what may follow, end tokens too.
        """
        if node.is_read if token is None else token in node.children:
            return
        if token is not None and self.num_nodes < self._max_nodes:
            node.children[token] = FutureNode(node, float(log_probs[token]))
            self.num_nodes += 1
        unexplored = legal.clone()
        unexplored[list(node.children)] = False
        node.read(float(log_probs[unexplored].logsumexp(0)) if unexplored.any() else -math.inf)
