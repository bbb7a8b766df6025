"""Claims on a store: one command at a time, and a killed one blocks nobody for long."""

import threading

import pytest

from raydd.io import store_claim
from raydd.io.filesystem import open_store
from raydd.io.store_claim import PREFIX, Claim, claim_store


@pytest.fixture
def store(s3, tmp_path, monkeypatch):
    """A store; tickets change, and are given up, quickly."""
    for name, seconds in (("BEAT_SECONDS", 0.2), ("DEAD_SECONDS", 2.0), ("POLL_SECONDS", 0.1)):
        monkeypatch.setattr(store_claim, name, seconds)
    return open_store(s3(f"bucket/{tmp_path.name}"))


def claims(store):
    return [name for name in store.names() if name.startswith(PREFIX)]


def test_a_second_command_is_refused_and_named(store):
    told = []
    with claim_store(store, "raydd distill", told.append) as claim:
        claim.check()
        with (
            pytest.raises(ValueError, match=r"s3://\S+: process \d+ on \S+ \(raydd distill\) works there; wait"),
            claim_store(store, "raydd finish", told.append),
        ):
            pass
        claim.check()
        assert len(claims(store)) == 1
    assert claims(store) == []
    assert ["waiting up to 2 s, in case process" in line for line in told] == [True]


def test_the_ticket_of_a_dead_command_is_removed_and_a_late_one_ends(store):
    dead = Claim(store, "raydd distill", "dead")
    dead._put(working=True)  # and no beat follows
    with claim_store(store, "raydd distill", lambda line: None) as claim:
        claim.check()
        with pytest.raises(RuntimeError, match="another process goes on there, so this one ends"):
            dead.check()
    assert claims(store) == []


def test_a_later_process_of_the_same_owner_takes_over_at_once(store):
    with claim_store(store, "raydd distill", print, owner="one") as first:
        with claim_store(store, "raydd distill", print, owner="one") as second:
            second.check()
            with pytest.raises(RuntimeError, match="another process goes on"):
                first.check()
        assert claims(store) == []


def test_of_many_at_the_same_time_at_most_one_works(store):
    working, most, refused = [], [], []
    begin = threading.Barrier(4)

    def work():
        begin.wait()
        try:
            with claim_store(store, "raydd distill", lambda line: None):
                working.append(1)
                most.append(len(working))
                threading.Event().wait(1.5)
                working.pop()
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most, default=0) <= 1
    assert len(most) + len(refused) == 4
    assert claims(store) == []
