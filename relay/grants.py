"""Who may speak for whom: the credential of a connection becomes the set of users it may name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memoryd.protocol.errors import Forbidden
from memoryd.protocol.ids import UserId, user_id


@dataclass(frozen=True, slots=True)
class Grant:
    """The users a connection may name; None is every user. `default` is meant when a request names none."""

    users: frozenset[UserId] | None
    default: UserId | None

    def user(self, named: str | None) -> UserId:
        """Return the user a request is for. Raises Forbidden or InvalidMessage."""
        if named is None:
            if self.default is None:
                raise Forbidden("this credential grants several users", field="user", hint="name one with --user")
            return self.default
        user = user_id(named)
        if self.users is not None and user not in self.users:
            raise Forbidden("this credential does not grant that user", field="user", hint="use a token that does")
        return user


def grant_of(users: Sequence[str], default: UserId) -> Grant:
    """Return the grant of a list of user names, where `*` is every user."""
    if "*" in users:
        return Grant(None, default)
    granted = frozenset(user_id(name) for name in users)
    return Grant(granted, next(iter(granted)) if len(granted) == 1 else None)


class Grants:
    """Resolves credentials: a token, or else the identity of the process at the other end of the socket."""

    def __init__(
        self, *, own_uid: int, default: UserId, tokens: Mapping[str, Grant], uids: Mapping[int, Grant]
    ) -> None:
        self._own = Grant(None, default)
        self._tokens = dict(tokens)
        self._uids = {**uids, own_uid: self._own, 0: self._own}

    def resolve(self, uid: int, token: str) -> Grant:
        """Return what a peer is granted. Raises Forbidden. A wrong token is refused whoever brings it."""
        if token:
            digest = token_sha256(token)
            for known, grant in self._tokens.items():
                if hmac.compare_digest(known, digest):
                    return grant
            raise Forbidden("unknown token", field="token", hint="make one with memoryd token")
        if uid not in self._uids:
            raise Forbidden("this system user is granted nothing", field="token", hint="bring a token: MEMORYD_TOKEN")
        return self._uids[uid]

    @property
    def own(self) -> Grant:
        """The grant of whoever runs the daemon."""
        return self._own


def token_sha256(token: str) -> str:
    """Return what the configuration keeps of a token: its SHA-256 in hex."""
    return hashlib.sha256(token.encode()).hexdigest()
