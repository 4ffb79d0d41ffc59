"""The guard must let runs pass as they are, and none of those whose labels mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.learning import figures as f
from benchmarks.learning.pupils import Told

if TYPE_CHECKING:
    from benchmarks.learning.protocols import Trial

_RUNS: Final = 90


def guard(trial: Trial, draws: int) -> None:
    """Have runs judged, and so often the same runs with what helped exchanged among the answers of each."""
    user, rng = trial.user, trial.rng
    chosen = rng.permutation(len(user.questions))[:_RUNS].tolist()
    for draw in range(1 + draws):
        pupil = trial.begin()
        for question in chosen:
            text = user.questions[question].text
            shown = user.unlearned(text)
            told = [shown[place] for place in rng.permutation(len(shown))] if draw else shown
            gold = user.questions[question].gold
            helped = [record for record, other in zip(told, shown, strict=True) if other in gold]
            pupil.learn(Told.naming(text, shown, helped))
        kind = f.EXCHANGED if draw else f.AS_THEY_ARE
        trial.figures.verdicts.append(f.Verdict(trial.base, kind, pupil.fit()))
