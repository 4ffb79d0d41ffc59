"""What a learner knows, as JSON: {user}/sona.json.

    version, embedder {name, sha256}, dim, profile, enabled, generation, accepted, refused, last {outcome, gain}, seen,
    since_refit, forgotten_us, updated_us
    base, earlier[]   {a, b, strength}, the second with the generation  micro   {a, b, each {value, first, second, steps}}
    ewc               {of_a, of_b, a, b, tasks}                        shown   {record key: times}
    silent            {run: [quality, whether somebody named what helped or harmed]}
    replay[]          {id, vector, terms, rarity, asks_when, shown, keys, base, credit, harmed, quality, coarse, ended_us}
    archive[]         the same of runs that are not in replay any more, of what was shown
    questions[][]     runs that the bank holds for one question, by their places in archive and, behind it, replay
    in_task, is_at_boundary    so many of the last runs are of one task, and whether no fit came since it was found to be new
    checksum          SHA-256 of all the others, as they stand here

An array is {"shape": [..], "dtype": "f2" | "f4" | "u8", "b64": ".."}, little-endian. Patterns follow from the rest. Keys that are not
known are kept. Weights are float32 as they are used; what lessons say is rounded to float16 when it is learned, so that nothing changes
when it is read again. Version 2 has neither archive and questions nor `in_task` and `is_at_boundary`; what was written before `accepted`, `last`, `strength`,
`silent` and `forgotten_us` were has none of them.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from sys import intern
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import msgspec
import numpy as np

from memoryd.protocol.errors import Damaged, InvalidMessage, ModelMismatch
from memoryd.protocol.ids import RecordId, TrajectoryId
from memoryd.protocol.keys import folded, keys_of
from memoryd.protocol.learning import Intent, Judged, Lesson, Outcome
from memoryd.sona.contrast import LEARNED
from memoryd.sona.ewc import Consolidated
from memoryd.sona.guard import STRENGTHS
from memoryd.sona.learner import Cycle, Learner, Snapshot
from memoryd.sona.lora import LARGEST, Adam, Adapter, Training
from memoryd.sona.profiles import profile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import ModelInfo

    Json = dict[str, Any]

T = TypeVar("T")

VERSION: Final = 3
_READABLE: Final = (2, 3)  # 1 had another credit for runs of which only the outcome is known
_ROUNDING: Final = 1.001  # of the size of an adapter, which is bounded before it is rounded
_DTYPES: Final = {"f2": "<f2", "f4": "<f4", "u8": "<u8"}
_MOST: Final = 1 << 24  # numbers in one array
_LARGEST_NUMBER: Final = 1e6  # of weights, their moments and their importance
_LATEST: Final = 253_402_300_799_999_999  # microseconds up to the end of the year 9999; nothing is counted further


def dump(learner: Learner, model: ModelInfo, updated_us: int, beside: Mapping[str, object] | None = None) -> bytes:
    """Return the state, with keys `beside` it that were not known when it was read."""
    known = learner.snapshot()
    found: Json = {
        **(beside or {}),
        "version": VERSION,
        "embedder": {"name": model.name, "sha256": model.sha256},
        "dim": model.dim,
        "profile": learner.profile.name,
        "enabled": learner.is_enabled,
        "generation": known.generation,
        "accepted": known.accepted,
        "refused": known.refused,
        "last": None if known.last is None else {"outcome": known.last.outcome, "gain": known.last.gain},
        "seen": known.seen,
        "since_refit": known.since_refit,
        "forgotten_us": known.forgotten_us,
        "updated_us": updated_us,
        "base": _weights(known.base),
        "earlier": [{"generation": number, **(_weights(each) or {})} for number, each in known.earlier],
        "micro": None if known.micro is None else {"a": _moments(known.micro.a), "b": _moments(known.micro.b)},
        "ewc": _held(known.held),
        "shown": {str(key): times for key, times in sorted(known.shown.items())},
        "silent": known.silent,
        "replay": [_lesson(each) for each in known.lessons],
        "archive": [_lesson(each) for each in known.archive],
        "questions": _questions(known),
        "in_task": known.in_task,
        "is_at_boundary": known.is_at_boundary,
    }
    return msgspec.json.encode({**found, "checksum": _checksum(found)})


def load(data: bytes, model: ModelInfo) -> tuple[Learner, dict[str, object]]:
    """Return the learner, and what stands beside its state that is not known.

    Raises Damaged, naming the field, when the state is not as it was written, or holds what no learner can, and ModelMismatch when
    another embedder made its vectors.
    """
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(f"not JSON ({type(error).__name__})", "data") from None
    checksum = found.pop("checksum", None)
    if checksum != _checksum(found):
        raise _damaged("its checksum is that of something else: it was cut short or edited", "checksum")
    if found.get("version") not in _READABLE:
        raise _damaged(f"version {found.get('version')!r} is not known here", "version")
    name, sha256 = _part(found, "embedder", lambda given: (given["name"], given["sha256"]))
    if (sha256, found.get("dim")) != (model.sha256, model.dim):
        raise ModelMismatch(
            f"what was learned belongs to the embedder {name}",
            field="embedder",
            hint="put that embedder back, or let learning begin again",
        )
    return _learner({**_LATER, **found}, model.dim), {name: found[name] for name in found if name not in _KNOWN}


_KNOWN: Final = frozenset(
    (
        "version", "embedder", "dim", "profile", "enabled", "generation", "accepted", "refused", "last", "seen", "since_refit",
        "forgotten_us", "updated_us", "base", "earlier", "micro", "ewc", "shown", "silent", "replay", "archive", "questions",
        "in_task", "is_at_boundary",
    )
)  # fmt: skip


# Keys that were not there from the beginning.
_LATER: Final[Mapping[str, object]] = {
    "accepted": 0,
    "last": None,
    "silent": {},
    "forgotten_us": 0,
    "archive": [],
    "questions": [],
    "in_task": 0,
    "is_at_boundary": False,
}


def _part(found: Json, name: str, read: Callable[[Any], T]) -> T:
    """Return what stands under a key. Raises Damaged, naming it, when that cannot be read."""
    try:
        return read(found[name])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, InvalidMessage) as error:
        raise _damaged(f"{type(error).__name__} in it", name) from error


def _learner(found: Json, dim: int) -> Learner:
    def part(name: str, read: Callable[[Any], T]) -> T:
        return _part(found, name, read)

    def adapter(given: Json | None) -> Adapter | None:
        return _adapter(given, dim, chosen.base_rank)

    chosen = part("profile", profile)
    lessons = part("replay", lambda given: _lessons(given, dim, chosen.replay))
    archive = part("archive", lambda given: _lessons(given, dim, chosen.archive, known=lessons))
    snapshot = Snapshot(
        base=part("base", adapter),
        earlier=part("earlier", lambda given: tuple(_generation(each, adapter) for each in _list(given))),
        micro=part("micro", lambda given: _training(given, dim, chosen.micro_rank)),
        held=part("ewc", lambda given: _consolidated(given, dim, chosen.base_rank)),
        lessons=lessons,
        seen=part("seen", _count),
        shown=part("shown", lambda given: Counter({_key(key): _count(times) for key, times in given.items()})),
        generation=part("generation", _count),
        refused=part("refused", _count),
        since_refit=part("since_refit", _count),
        accepted=part("accepted", _count),
        last=part("last", _cycle),
        archive=archive,
        questions=part("questions", lambda given: _grouped(given, (*archive, *lessons))),
        in_task=part("in_task", _count),
        is_at_boundary=part("is_at_boundary", _bool),
        forgotten_us=part("forgotten_us", _count),
        silent=part("silent", lambda given: {TrajectoryId(run): _judged(how) for run, how in given.items()}),
    )
    learner = Learner(dim, chosen, snapshot)
    learner.is_enabled = part("enabled", _bool)
    return learner


def _checksum(found: Mapping[str, object]) -> str:
    return hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()


def _damaged(what: str, field: str) -> Damaged:
    return Damaged(
        f"the state of learning cannot be used: {what}",
        field=field,
        hint="learning goes on from what runs say from now on",
    )


def _generation(given: Json, adapter: Callable[[Json | None], Adapter | None]) -> tuple[int, Adapter | None]:
    return _count(given["generation"]), adapter(given if "a" in given else None)


def _cycle(given: Json | None) -> Cycle | None:
    if given is None:
        return None
    outcome, gain = given["outcome"], given["gain"]
    if outcome not in get_args(Outcome) or not (gain is None or math.isfinite(gain)):
        raise ValueError("not what comes of a cycle")
    return Cycle(outcome, gain)


def _judged(given: object) -> Judged:
    quality, names = _list(given)
    return _quality(quality), _bool(names)


# --- arrays ---


def _array(array: NDArray[Any], dtype: str) -> Json:
    data = np.ascontiguousarray(array, _DTYPES[dtype]).tobytes()
    return {"shape": list(array.shape), "dtype": dtype, "b64": base64.b64encode(data).decode()}


def _floats(given: Json, *shape: int) -> NDArray[np.float32]:
    found = _numbers(given, shape, ("f2", "f4")).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("NaN or infinity")
    return found


def _small(given: Json, *shape: int, least: float = -_LARGEST_NUMBER) -> NDArray[np.float32]:
    """Return an array of what a fit goes on from: with larger numbers it would end at infinity."""
    found = _floats(given, *shape)
    if found.min(initial=0) < least or found.max(initial=0) > _LARGEST_NUMBER:
        raise ValueError("a number that no fit comes to")
    return found


def _keys(given: Json) -> NDArray[np.uint64]:
    return _numbers(given, (-1,), ("u8",)).astype(np.uint64)


def _numbers(given: Json, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> NDArray[Any]:
    """Return an array of this shape, in which -1 is any length. Raises ValueError when it has another one."""
    stated, dtype = tuple(map(_count, given["shape"])), given["dtype"]
    if dtype not in dtypes or len(stated) != len(shape) or math.prod(stated) > _MOST:
        raise ValueError("an array of another kind")
    if any(wanted not in (-1, length) for wanted, length in zip(shape, stated, strict=True)):
        raise ValueError("an array of another shape")
    data = base64.b64decode(given["b64"], validate=True)
    return np.frombuffer(data, _DTYPES[dtype]).reshape(stated)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LATEST:
        raise TypeError("not a count")
    return value


def _quality(value: Any) -> float:
    quality = float(value)
    if not 0 <= quality <= 1:
        raise ValueError("not a quality")
    return quality


def _key(text: str) -> int:
    key = int(text)
    if not 0 <= key < 1 << 64:
        raise ValueError("not a key")
    return key


# --- weights ---


def _weights(adapter: Adapter | None) -> Json | None:
    return None if adapter is None else {**_factors(adapter), "strength": adapter.strength}


def _factors(adapter: Adapter) -> Json:
    return {"a": _array(adapter.a, "f4"), "b": _array(adapter.b, "f4")}


def _adapter(given: Json | None, dim: int, rank: int) -> Adapter | None:
    if given is None:
        return None
    strength = float(given.get("strength", LEARNED))
    if not 0 <= strength <= max(STRENGTHS):
        raise ValueError("a strength that no adapter has")
    return _bounded(Adapter(_small(given["a"], rank, dim), _small(given["b"], dim, rank), strength))


def _bounded(adapter: Adapter) -> Adapter:
    if not adapter.size <= LARGEST * _ROUNDING:
        raise ValueError("an adapter that bends too far")
    return adapter


def _moments(adam: Adam) -> Json:
    arrays = {"value": adam.value, "first": adam.first, "second": adam.second}
    return {"steps": adam.steps, **{name: _array(array, "f4") for name, array in arrays.items()}}


def _training(given: Json | None, dim: int, rank: int) -> Training | None:
    if given is None:
        return None
    a, b = given["a"], given["b"]
    factors = Adapter(_small(a["value"], rank, dim), _small(b["value"], dim, rank))
    training = Learner.micro_of(_bounded(factors))
    for adam, read, shape in ((training.a, a, (rank, dim)), (training.b, b, (dim, rank))):
        adam.first, adam.second = _small(read["first"], *shape), _small(read["second"], *shape, least=0)
        adam.steps = _count(read["steps"])
    return training


def _held(held: Consolidated | None) -> Json | None:
    if held is None:
        return None
    importance = {"of_a": _array(held.of_a, "f4"), "of_b": _array(held.of_b, "f4")}
    return {**importance, **_factors(held.anchor), "tasks": held.tasks}


def _consolidated(given: Json | None, dim: int, rank: int) -> Consolidated | None:
    if given is None:
        return None
    anchor = Adapter(_small(given["a"], rank, dim), _small(given["b"], dim, rank))
    of_a, of_b = _small(given["of_a"], rank, dim, least=0), _small(given["of_b"], dim, rank, least=0)
    return Consolidated(of_a, of_b, anchor, _count(given["tasks"]))


# --- lessons ---


def _lesson(lesson: Lesson) -> Json:
    return {
        "id": lesson.id,
        "vector": _array(lesson.intent.vector, "f2"),
        "terms": _array(lesson.intent.terms, "u8"),
        "rarity": _array(lesson.intent.rarity, "f2"),
        "asks_when": lesson.intent.asks_when,
        "shown": list(lesson.shown),
        "keys": _array(lesson.keys, "u8"),
        "base": _array(lesson.base, "f2"),
        "credit": _array(lesson.credit, "f2"),
        "harmed": np.flatnonzero(lesson.harmed).tolist(),
        "quality": lesson.quality,
        "coarse": lesson.is_coarse,
        "ended_us": lesson.ended_us,
    }


def _lessons(given: object, dim: int, room: int, known: Sequence[Lesson] = ()) -> tuple[Lesson, ...]:
    found = _list(given)
    ids = {*(each["id"] for each in found), *(lesson.id for lesson in known)}
    if len(found) > room or len(ids) < len(found) + len(known):
        raise ValueError("more runs than there is room for, or one twice")
    lessons = tuple(_read_lesson(each, dim) for each in found)
    _check_shown(lessons)
    return lessons


def _check_shown(lessons: Sequence[Lesson]) -> None:
    """Raise ValueError unless the first keys of each lesson are those of what was shown: credit would be for another memory."""
    shown = [record for lesson in lessons for record in lesson.shown]
    keys = [lesson.keys[: len(lesson.shown)] for lesson in lessons]
    if not np.array_equal(folded(keys_of(shown)), np.concatenate([np.empty(0, np.uint64), *keys])):
        raise ValueError("keys of other memories than those that were shown")


def _questions(known: Snapshot) -> list[list[int]]:
    places = {lesson.id: place for place, lesson in enumerate((*known.archive, *known.lessons))}
    return [[places[lesson.id] for lesson in runs] for runs in known.questions]


def _grouped(given: object, lessons: Sequence[Lesson]) -> tuple[Sequence[Lesson], ...]:
    """Return the runs of each question; nothing when it is not written. Raises ValueError when not each run has one."""
    found = [[_count(place) for place in _list(places)] for places in _list(given)]
    if found and (sorted(chain.from_iterable(found)) != list(range(len(lessons))) or not all(found)):
        raise ValueError("not every run has one question")
    return tuple([lessons[place] for place in places] for places in found)


def _read_lesson(given: Json, dim: int) -> Lesson:
    keys, terms, shown = _keys(given["keys"]), _keys(given["terms"]), given["shown"]
    harmed = np.zeros(len(keys), bool)
    harmed[[_count(place) for place in given["harmed"]]] = True
    quality = _quality(given["quality"])
    credit = _floats(given["credit"], len(keys))
    texts = [given["id"], *shown]
    if not (len(shown) <= len(keys) and all(isinstance(each, str) for each in texts)):
        raise ValueError("not a lesson")
    if credit.min(initial=0) < 0 or credit.max(initial=0) > 1 or credit[len(shown) :].any():
        raise ValueError("credit that nobody can have")
    asks_when = given.get("asks_when")  # which was not written at first
    if not (asks_when is None or isinstance(asks_when, bool)):
        raise TypeError("asks_when is neither true nor false")
    return Lesson(
        id=TrajectoryId(given["id"]),
        intent=Intent(_floats(given["vector"], dim), terms, _floats(given["rarity"], len(terms)), asks_when),
        shown=tuple(RecordId(intern(record)) for record in shown),
        keys=keys,
        base=_floats(given["base"], len(keys)),
        credit=credit,
        harmed=harmed,
        quality=quality,
        is_coarse=bool(given["coarse"]),
        ended_us=_count(given["ended_us"]),
    )
