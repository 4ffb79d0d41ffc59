"""The five profiles: how much one user's learner holds and does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from memoryd.protocol.errors import InvalidMessage


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes and rates of a learner.

    `micro_rank` and `base_rank` are those of the two adapters, `clusters` the most patterns, `replay` the most trajectories
    that are kept whole, and `archive` the most others of which is kept what helped. Below `threshold` the quality of a run
    teaches nothing good. After `refit_every` trajectories the base adapter is fitted anew, in `steps` of size `rate`, against
    `negatives` memories that nobody asked for. `ewc_lambda` is on the scale of the published engine, see `ewc.strength`.
    """

    name: str
    micro_rank: int
    base_rank: int
    clusters: int
    replay: int
    archive: int
    threshold: float
    refit_every: int
    negatives: int
    rate: float
    steps: int
    ewc_lambda: float


PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile("realtime", 2, 4, 25, 1_000, 1_000, 0.7, 100, 128, 0.003, 30, 2_000.0),
        Profile("batch", 2, 8, 100, 5_000, 5_000, 0.4, 200, 512, 0.003, 60, 2_000.0),
        Profile("research", 2, 16, 100, 10_000, 10_000, 0.2, 30, 1_024, 0.002, 90, 2_500.0),
        Profile("edge", 1, 4, 15, 200, 200, 0.5, 50, 64, 0.003, 30, 1_000.0),
        Profile("balanced", 2, 8, 100, 2_000, 2_000, 0.3, 30, 512, 0.003, 60, 2_000.0),
    )
}
DEFAULT: Final = "balanced"


def profile(name: str) -> Profile:
    """Return the profile of that name. Raises InvalidMessage."""
    if name not in PROFILES:
        raise InvalidMessage("no such profile", field="profile", hint="one of " + ", ".join(PROFILES))
    return PROFILES[name]
