"""Grammar-aligned sampling: samples follow the model's own distribution given a legal output.

A mask alone renormalizes each token's distribution, which favors prefixes that the model rarely
completes. Here each legal token's probability is weighed with the expected future of the prefix
that it makes (ASAp of Park et al., arXiv 2405.21047); with what is learned, outputs approach the
model's distribution conditioned on the constraint. Each node of a draft is weighed by the futures
of its own prefix, as they are at the verdict, so that every verifier keeps that distribution.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import overload

import torch

from parallel.decoding.expected_futures import FutureNode, FutureTree
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, Verdict

MAX_NODES = 131072
_MAX_TREES = 256


class AlignedRows(Sequence[ScoreRow]):
    """The masked rows of a draft, each weighed by the futures after the path of its own node."""

    def __init__(
        self,
        plain: Sequence[ScoreRow],
        masked: Sequence[ScoreRow],
        draft: DraftTree,
        sample: "AlignedSample",
    ) -> None:
        """Weigh the rows of `draft`.

        Args:
            plain: rows[0] follows the committed tokens, rows[i + 1] follows node i.
            masked: the same rows under the constraint, read when they are needed.
            draft: a tree, or a chain.
            sample: where the committed tokens end.
        """
        self._plain = plain
        self._masked = masked
        self._draft = draft
        self._sample = sample

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._masked)

    @overload
    def __getitem__(self, index: int) -> ScoreRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ScoreRow]: ...
    def __getitem__(self, index: int | slice) -> ScoreRow | Sequence[ScoreRow]:
        """Return a weighed row; raises ConstraintBroken as the masked rows do."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        row, node = self._masked[index], self._node(index - 1)
        if node is None or not node.children:
            return row
        futures = [child.log_future for child in node.children.values()]
        logits = row.logits.clone()
        weights = torch.tensor(futures, dtype=torch.float64) * self._sample.temperature
        logits[list(node.children)] += weights.to(logits.dtype)
        return ScoreRow(logits, None)

    def __iter__(self) -> Iterator[ScoreRow]:
        """Yield the weighed rows."""
        return (self[place] for place in range(len(self)))

    def learn(self, verdict: Verdict, end_ids: Sequence[int]) -> None:
        """Learn from what a verdict commits: the rows before its tokens, and the tokens."""
        path = [-1, *(verdict.accepted_nodes or range(verdict.num_accepted))]
        tokens = [self._draft.token_ids[node] for node in path[1:]]
        if verdict.next_token is not None:
            tokens.append(verdict.next_token)
        node = self._sample.place
        for before, token in zip(path, tokens, strict=False):
            if node is None:
                return
            taken = None if token in end_ids else token
            if not (node.is_read and (taken is None or taken in node.children)):
                logits = self._plain[before + 1].logits.detach().to("cpu", torch.float64)
                log_probs = (logits / self._sample.temperature).log_softmax(0)
                legal = torch.isfinite(self._masked[before + 1].logits)
                self._sample.tree.extend(node, taken, log_probs, legal)
            node = node.children.get(token)

    def _node(self, node: int) -> FutureNode | None:
        """Return what is known after a node of the draft."""
        tokens: list[int] = []
        while node >= 0:
            tokens.append(self._draft.token_ids[node])
            node = self._draft.parents[node]
        found = self._sample.place
        for token in reversed(tokens):
            found = None if found is None else found.children.get(token)
        return found


class AlignedSample:
    """Where one sample's output is among the futures that it shares."""

    def __init__(self, tree: FutureTree, temperature: float) -> None:
        """Begin before the output's first token.

        Args:
            tree: of the sample's prompt and constraint.
            temperature: of the sample, above 0.
        """
        self.tree = tree
        self.temperature = temperature
        self.place: FutureNode | None = tree.root
        """The node of the committed tokens; None where no sample has read them."""

    def follow(self, token: int) -> None:
        """Continue with a committed token."""
        self.place = None if self.place is None else self.place.children.get(token)


class LearnedFutures:
    """The trees of the last prompts and constraints, within a bound of nodes."""

    def __init__(self, *, max_nodes: int = MAX_NODES, max_trees: int = _MAX_TREES) -> None:
        self._max_nodes = max_nodes
        self._max_trees = max_trees
        self._trees: OrderedDict[Hashable, FutureTree] = OrderedDict()

    def of(self, key: Hashable) -> FutureTree:
        """Return the tree of all samples with this key, which names all that futures depend on.

        Trees that were not asked for the longest are dropped; a sample in progress keeps its own.
        """
        tree = self._trees.pop(key, None) or FutureTree()
        num_nodes = sum(one.num_nodes for one in self._trees.values())
        while self._trees and (num_nodes > self._max_nodes or len(self._trees) >= self._max_trees):
            _, dropped = self._trees.popitem(last=False)
            num_nodes -= dropped.num_nodes
        self._trees[key] = tree
        return tree
