"""What learning takes when there is much: all users' memories in one store, after ever more runs."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.learning import figures as f
from benchmarks.learning.protocols import NAMED, feed
from benchmarks.learning.pupils import Ours
from memoryd.sona.bank import Bank
from memoryd.sona.profiles import profile
from memoryd.sona.state import dump, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.learning.protocols import Trial
    from benchmarks.learning.users import User
    from memoryd.protocol.interfaces import ModelInfo
    from memoryd.protocol.learning import Intent
    from memoryd.sona.learner import Learner
    from memoryd.sona.profiles import Profile

RUNS: Final = (10, 100, 1_000, 3_000)
STEP: Final = "an instant step"
CYCLE: Final = "fitting and judging, of a processor"
PER_RUN: Final = "the same for each run between two of them"
SEARCH: Final = "searching the bank"
TRANSFORM: Final = "bending a question"
STATE: Final = "state in memory, {}"
_ASKED: Final = 300
_STEPS: Final = 100  # the last ones count


def together(trial: Trial) -> None:
    """Learn from half of all users' questions, and ask the others."""
    user, pupil = trial.user, trial.begin()
    order = trial.rng.permutation(len(user.questions)).tolist()
    half = len(order) // 2
    feed(trial, pupil, order[:half], NAMED)
    pupil.fit()
    trial.compare(f.TOGETHER, pupil, [(question, user.questions[question].text) for question in order[half:]])


def costs(user: User, chosen: Profile, figures: f.Figures) -> None:
    """Learn from as many runs as there are phrasings, and note what it takes on the way."""
    rng, pupil = np.random.default_rng(0), Ours(user, chosen)
    items = [
        (question, text)
        for question in range(len(user.questions))
        for text in (user.questions[question].text, *user.phrasings(question))
    ]
    order = rng.permutation(len(items)).tolist()
    asked = [user.about(items[place][1]) for place in order[-_ASKED:]]
    intents = [words.intent(meaning.vector) for words, meaning in asked]
    for done, place in enumerate(order[: max(RUNS)], 1):
        question, text = items[place]
        pupil.learn(NAMED.of(user, question, text, user.unlearned(text), rng))
        if pupil.is_due:
            pupil.fit()
        if done in RUNS:
            _note(pupil, done, intents, figures)
    for kind in ("edge", "balanced"):
        learner = pupil.learner.in_profile(profile(kind))
        learner.refit(user.store.memories)
        size = _resident(learner, user.store.encoder.model) / 2**20
        figures.costs.append(f.Cost(STATE.format(kind), len(learner), size, None, "MB"))


def _note(pupil: Ours, runs: int, intents: Sequence[Intent], figures: f.Figures) -> None:
    figures.costs.append(_cost(STEP, runs, [1e3 * each for each in pupil.took[-_STEPS:]]))
    known = pupil.learner.snapshot()
    if pupil.fitted:
        last = 1e3 * pupil.fitted[-1]
        figures.costs.append(_cost(CYCLE, runs, [last]))
        figures.costs.append(_cost(PER_RUN, runs, [last / pupil.learner.profile.refit_every]))
    bank = Bank(len(intents[0].vector), questions=known.questions)
    figures.costs.append(_cost(SEARCH, runs, _timed(bank.near, intents)))
    micro = None if known.micro is None else known.micro.adapter
    adapters = [each for each in (known.base, micro) if each is not None]

    def bent(intent: Intent) -> None:
        vector = intent.vector
        for adapter in adapters:
            vector = adapter.bent(vector)

    figures.costs.append(_cost(TRANSFORM, runs, _timed(bent, intents)))


def _timed(what: Callable[[Intent], object], intents: Sequence[Intent]) -> list[float]:
    """Return how many milliseconds each takes."""
    found = []
    for intent in intents:
        began = time.perf_counter()
        what(intent)
        found.append(1e3 * (time.perf_counter() - began))
    return found


def _cost(what: str, runs: int, took: Sequence[float]) -> f.Cost:
    p95 = float(np.percentile(took, 95)) if len(took) > 1 else None
    return f.Cost(what, runs, float(np.median(took)), p95, "ms")


def _resident(learner: Learner, model: ModelInfo) -> int:
    """Return the bytes that a learner takes which is read from its state."""
    state = dump(learner, model, 0)
    gc.collect()
    tracemalloc.start()
    read = load(state, model)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del read
    return taken
