"""What was learned, as the published engine writes and reads its own state (ruvector-sona 0.1, `save_state` and `load_state`).

    {version, patterns [{id, centroid, cluster_size, total_weight, avg_quality, created_at, last_accessed, access_count, pattern_type}],
     ewc_task_count, instant_enabled, background_enabled}

Its state has patterns only, so no weights and no runs go into it. Times are seconds since 1970.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from memoryd.protocol.learning import Pattern
    from memoryd.sona.learner import Learner

_VERSION: Final = 1
_KIND: Final = "General"
_SECOND: Final = 1_000_000  # in microseconds


def published(learner: Learner) -> bytes:
    """Return the patterns of a learner in the JSON of the published engine."""
    state = {
        "version": _VERSION,
        "patterns": [_pattern(learner, number, each) for number, each in enumerate(learner.patterns())],
        "ewc_task_count": learner.status().tasks,
        "instant_enabled": learner.is_enabled,
        "background_enabled": learner.is_enabled,
    }
    return msgspec.json.encode(state)


def _pattern(learner: Learner, number: int, pattern: Pattern) -> dict[str, Any]:
    held = [lesson for run in pattern.runs if (lesson := learner.lesson(run)) is not None]
    return {
        "id": number,
        "centroid": pattern.centre.tolist(),
        "cluster_size": len(pattern.runs),
        "total_weight": pattern.quality * len(pattern.runs),
        "avg_quality": pattern.quality,
        "created_at": min(lesson.ended_us for lesson in held) // _SECOND,
        "last_accessed": pattern.last_us // _SECOND,
        "access_count": 0,
        "pattern_type": _KIND,
    }
