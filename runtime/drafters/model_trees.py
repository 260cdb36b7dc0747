"""Draft trees of a model and look-ups: the model is asked along the most probable path only."""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

from parallel.drafting.tree import Odds, Source, advanced, best_guess
from parallel.messages import DraftItem, ProposalItem
from runtime.drafters.draft_model import DraftModel
from runtime.drafters.draft_sequence import DraftSequence
from runtime.drafters.lookup_drafting import Lookups, tree_proposal
from runtime.drafters.model_guesses import ModelGuesses

_MAX_STEPS = 8  # of the model in one tree
_NUM_CANDIDATES = 16  # that stand for the whole vocabulary where only the best are gathered
_FIRST_PROB = 0.5  # of the best token after a step of the model, until more is known
_SMOOTHING = 0.02


@dataclass(slots=True)
class _Path:
    """The path of one tree along which the model is asked."""

    item: DraftItem
    sequence: DraftSequence
    model: ModelGuesses
    sources: list[Source]
    states: list[Any]
    token_ids: tuple[int, ...] = ()
    prob: float = 1.0
    num_asked: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether no step of the model after this path can be worth its time."""
        is_long = len(self.token_ids) >= self.item.num_draft or self.num_asked >= _MAX_STEPS
        return is_long or self.prob < self.item.min_gain

    def best(self, odds: Odds) -> tuple[int, float] | None:
        """Return the most probable next token of all sources, with its probability."""
        return best_guess(self.sources, self.states, odds)

    def extend(self, token: int, prob: float) -> None:
        """Append a token, to the sequence as well: the model reads it next."""
        self.prob *= prob
        self.token_ids += (token,)
        self.states = advanced(self.sources, self.states, token)
        self.sequence.token_ids.append(token)


class ModelTrees:
    """Grows the trees of a drafter's requests."""

    def __init__(self, model: DraftModel, lookups: Lookups) -> None:
        self.num_steps = 0
        """Steps of the model that the last trees took."""
        self._model = model
        self._lookups = lookups
        self._usual_prob = _FIRST_PROB

    def grow(
        self, items: Items[DraftItem], step_width: Callable[[int], int]
    ) -> dict[int, ProposalItem]:
        """Return each item's tree, by request.

        Args:
            items: which ask for trees.
            step_width: returns the layers at a time of a step, by the step's number.
        """
        self.num_steps = 0
        paths = [self._start(item) for item in items]
        asking = [path for path in paths if self._needs_model(path)]
        self._model.read([path.item for path in asking], drafts=True)
        while asking:
            self._ask_model(asking, width=step_width(self.num_steps))
            self.num_steps += 1
            asking = [path for path in asking if self._needs_model(path)]
        return {path.item.request: self._finish(path) for path in paths}

    def _start(self, item: DraftItem) -> _Path:
        model, sequence = ModelGuesses(), self._model.sequence(item.request)
        sources: list[Source] = [model, *self._lookups.sources(sequence.text)]
        return _Path(item, sequence, model, sources, [source.root() for source in sources])

    def _finish(self, path: _Path) -> ProposalItem:
        """Remove the path from its sequence, as it is a guess, and return the grown tree."""
        sequence = path.sequence
        del sequence.token_ids[len(sequence.token_ids) - len(path.token_ids) :]
        sequence.truncate_cache(len(sequence.token_ids))
        tree = self._lookups.grow(sequence.text, path.item, path.sources)
        return tree_proposal(path.item, tree)

    def _needs_model(self, path: _Path) -> bool:
        """Follow confident look-ups; return True where the model should be asked next.

        A step of the model adds its confidence beyond what is known without it.
        """
        while not path.is_complete:
            best = path.best(self._lookups.odds)
            known = 0.0 if best is None else best[1]
            if path.prob * (1 - known / self._usual_prob) >= path.item.min_gain:
                return True
            if best is None:
                return False
            path.extend(*best)
        return False

    def _ask_model(self, paths: Items[_Path], *, width: int) -> None:
        """Add the model's guesses after each path, and extend it by the most probable token."""
        items = [path.item for path in paths]
        scores = self._model.score(items, width=width, at_least=_NUM_CANDIDATES)
        for path, row in zip(paths, scores, strict=True):
            path.model.add(path.token_ids, path.sequence.masked(row), path.sequence)
            path.num_asked += 1
            best = path.best(self._lookups.odds)
            assert best is not None
            self._usual_prob += _SMOOTHING * (best[1] - self._usual_prob)
            path.extend(*best)
