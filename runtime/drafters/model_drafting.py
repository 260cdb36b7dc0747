"""A drafter with a model, on its own ranks or in the leader's thread, and optional look-ups."""

from collections.abc import Iterator
from collections.abc import Sequence as Items

from parallel.decoding.verify import draft_token, draft_token_with_probs
from parallel.messages import DraftItem, DraftRequest, ProposalItem
from runtime.constraints.compiler import Constraints
from runtime.drafters.draft_model import DraftModel
from runtime.drafters.drafting import DraftPart
from runtime.drafters.lookup_drafting import Lookups, unknown_proposal
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_outcomes import ModelOutcomes
from runtime.drafters.model_trees import ModelTrees
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner


class ModelDrafter:
    """Drafts with a model; all items advance one token with each forward.

    Where a tree may be drafted, the model and the look-ups grow one tree: the model is asked along
    the most probable path, as far as that is worth its time, and the look-ups cost nothing. A chain
    is the model's, or a copy where the request's own text repeats itself: which of the two depends
    on committed and drafted tokens alone, so each draft keeps its kind. Tokens that a constraint
    forces are in the model's chain without a forward of their own: the next one reads them too.

    With a width above 1, each draft's first forward is exact, over all tokens whose keys and values
    are approximate, and the others are approximate (EasySpec, Wu et al., arXiv 2502.02493): the
    calibration is the first step of the next draft.
    """

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        *,
        lookups: LookupSettings = NO_LOOKUPS,
        grows_trees: bool = False,
        width: int | None = None,
        step_s: tuple[float, ...] = (),
        calibrates: bool = True,
        prompt_window: int | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        """Draft with the model of `runner`.

        Args:
            runner: rank 0 of the drafter group.
            ledger: the account of its cache.
            lookups: its look-up sources.
            grows_trees: whether it offers to draft trees.
            width: layers whose attention is to run at once; None leaves it to the leader.
            step_s: seconds that a step is predicted to take with widths 1, 2, ...
            calibrates: whether each draft first reads again, exactly, what approximate forwards
                read, which costs no forward of its own. Without, errors accumulate: for
                experiments alone.
            prompt_window: tokens of a prompt's end that the model reads; None is all of them. The
                look-ups read the whole prompt.
            constraints: where the constraints of requests are found; without, drafts may be
                illegal, and are then rejected.

        Raises:
            ConfigError: the files of a look-up source cannot be read.
        """
        self.grows_trees = grows_trees
        self.width = width
        self.step_s = step_s
        self._calibrates = calibrates
        self._model = DraftModel(
            runner,
            ledger,
            calibrates=calibrates,
            prompt_window=prompt_window,
            constraints=constraints,
        )
        self._lookups = Lookups(lookups)
        self._trees = ModelTrees(self._model, self._lookups)
        self._outcomes = ModelOutcomes(self._model)

    @property
    def num_successors(self) -> int:
        """How many best tokens it needs after each token that the target scored."""
        return self._lookups.num_successors

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Draft for every item at once, with one ragged forward for each draft position."""
        known = self._follow(request)
        self._model.read([item for item in known if item.num_draft == 0], drafts=False)
        wanting = [item for item in known if item.num_draft > 0]
        width = request.width or 1
        if wanting and all(item.num_outcomes for item in wanting):
            yield from self._draft_outcomes(request, wanting, width)
            return
        grown = self._trees.grow(
            [item for item in wanting if item.tree], lambda step: self._step_width(width, step)
        )
        chains = [item for item in wanting if not item.tree and not self._copied(item)]
        for item in chains:
            self._model.sequence(item.request).add_forced(item.num_draft)
        drafting = [item for item in chains if self._num_missing(item)]
        self._model.read(drafting, drafts=True)
        num_steps, streaming = 0, list[DraftItem]()
        while unfinished := [item for item in drafting if self._num_missing(item)]:
            self._advance(unfinished, width=self._step_width(width, num_steps))
            num_steps += 1
            if num_steps == 1 and any(map(self._num_missing, drafting)):
                streaming = [item for item in drafting if item.stream]
                if streaming:
                    firsts = tuple(self._proposal(item, 0, 1) for item in streaming)
                    yield DraftPart(firsts, partial=True)
        self._model.note(known)
        items = [
            grown.get(item.request) or self._proposal(item, int(item in streaming))
            for item in request.items
            if item.num_draft > 0
        ]
        yield DraftPart(tuple(items), num_steps=num_steps + self._trees.num_steps)

    def _draft_outcomes(
        self, request: DraftRequest, wanting: list[DraftItem], width: int
    ) -> Iterator[DraftPart]:
        """Draft for several outcomes of each item, a part for each step."""
        self._model.note(wanting)
        unknown = tuple(
            self._proposal(item, 0)
            for item in request.items
            if item.num_draft > 0 and item not in wanting
        )
        parts = self._outcomes.draft(wanting, width=self._step_width(width, 1))
        for step, (items, is_last) in enumerate(parts, start=1):
            yield DraftPart(
                items + (unknown if is_last else ()),
                partial=not is_last,
                num_steps=step,
                can_end=not unknown,
            )

    def keep_alive(self) -> None:
        """Broadcast an empty plan to the group's other ranks."""
        self._model.keep_alive()

    def close(self) -> None:
        """Broadcast the last plan: the group's other ranks end."""
        self._model.stop()

    def _follow(self, request: DraftRequest) -> list[DraftItem]:
        """Close and open requests, append the items' tokens; return the items that are known."""
        for number in request.closed:
            self._model.close(number)
        first_tokens = {item.request: item.tail for item in request.items if item.keep == 0}
        for opened in request.opened:
            self._model.open(opened, first_tokens.get(opened.request, ()))
        known = [item for item in request.items if self._model.knows(item)]
        for item in known:
            sequence = self._model.sequence(item.request)
            sequence.follow(item, self._lookups)
            self._outcomes.learn(sequence, item)
        return known

    def _step_width(self, width: int, step: int) -> int:
        """Return the layers at a time of a draft's step: the first one calibrates."""
        return 1 if step == 0 and self._calibrates else width

    def _copied(self, item: DraftItem) -> bool:
        sequence = self._model.sequence(item.request)
        return self._lookups.copies_text and sequence.copy(item.num_draft)

    def _advance(self, items: Items[DraftItem], *, width: int) -> None:
        """Draft one more token for each item, and what must follow it."""
        scores = self._model.score(items, width=width, draws=True)
        for item, score in zip(items, scores, strict=True):
            sequence = self._model.sequence(item.request)
            opened, score = sequence.opened, sequence.masked(score)
            inputs = (score, opened.sampling, opened.key, sequence.position, sequence.penalized)
            if opened.send_probs:
                sequence.add(*draft_token_with_probs(*inputs))
            else:
                sequence.add(draft_token(*inputs), None)
            sequence.add_forced(item.num_draft)

    def _num_missing(self, item: DraftItem) -> int:
        """Return how many tokens an item's draft still lacks."""
        return item.num_draft - len(self._model.sequence(item.request).draft)

    def _proposal(self, item: DraftItem, first: int, stop: int | None = None) -> ProposalItem:
        """Return an item's draft from its token `first` to `stop`, as far as it was drafted."""
        if not self._model.knows(item):
            return unknown_proposal(item, unknown=not self._model.is_rejected(item.request))
        return self._model.sequence(item.request).proposal(item, first, stop)
