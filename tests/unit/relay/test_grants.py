"""Which credential speaks for whom."""

from __future__ import annotations

import pytest

from memoryd.protocol.errors import Forbidden, InvalidMessage
from memoryd.protocol.ids import UserId
from memoryd.relay.grants import Grants, grant_of, token_sha256

DEFAULT = UserId("default")


def grants() -> Grants:
    return Grants(
        own_uid=1000,
        default=DEFAULT,
        tokens={
            token_sha256("for-alice"): grant_of(["alice"], DEFAULT),
            token_sha256("for-two"): grant_of(["alice", "bob"], DEFAULT),
            token_sha256("for-all"): grant_of(["*"], DEFAULT),
        },
        uids={2000: grant_of(["carol"], DEFAULT)},
    )


def test_a_token_for_one_user_means_that_user_when_none_is_named() -> None:
    grant = grants().resolve(3000, "for-alice")

    assert grant.user(None) == "alice"
    assert grant.user("alice") == "alice"


def test_a_token_for_one_user_does_not_speak_for_another() -> None:
    with pytest.raises(Forbidden) as refused:
        grants().resolve(1000, "for-alice").user("bob")

    assert refused.value.field == "user"
    assert refused.value.hint


def test_a_token_for_several_users_needs_a_name() -> None:
    grant = grants().resolve(1000, "for-two")

    assert [grant.user("alice"), grant.user("bob")] == ["alice", "bob"]
    with pytest.raises(Forbidden) as refused:
        grant.user(None)
    assert refused.value.field == "user"


def test_a_star_speaks_for_everybody_and_means_the_default_user() -> None:
    grant = grants().resolve(3000, "for-all")

    assert [grant.user(None), grant.user("zoe")] == ["default", "zoe"]


def test_who_runs_the_daemon_and_root_need_no_token() -> None:
    assert [grants().resolve(uid, "").user("bob") for uid in (1000, 0)] == ["bob", "bob"]


def test_another_system_user_gets_what_is_granted_to_it_and_no_more() -> None:
    grant = grants().resolve(2000, "")

    assert grant.user(None) == "carol"
    with pytest.raises(Forbidden):
        grant.user("alice")


def test_a_system_user_without_a_grant_is_told_to_bring_a_token() -> None:
    with pytest.raises(Forbidden) as refused:
        grants().resolve(3000, "")

    assert refused.value.field == "token"
    assert "MEMORYD_TOKEN" in str(refused.value.hint)


@pytest.mark.parametrize("token", ["wrong", "for-alice ", "FOR-ALICE", token_sha256("for-alice"), "\x00"])
def test_a_wrong_token_is_refused_even_from_who_runs_the_daemon(token: str) -> None:
    with pytest.raises(Forbidden) as refused:
        grants().resolve(1000, token)

    assert refused.value.field == "token"


def test_a_grant_cannot_be_made_for_a_name_that_is_no_user() -> None:
    with pytest.raises(InvalidMessage):
        grant_of(["../x"], DEFAULT)


def test_a_forged_name_is_invalid_before_it_is_forbidden() -> None:
    with pytest.raises(InvalidMessage):
        grants().resolve(1000, "for-alice").user("../alice")
