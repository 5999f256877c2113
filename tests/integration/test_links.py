"""A link, a second name or a pipe in place of a file of ours: never written through."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from functools import partial

import pytest

from mirror.app import lock
from mirror.errors import ConfigError, LedgerError
from mirror.ledger import Ledger
from mirror.ledger.commit_counter import COMMITS_NAME
from mirror.vms import token

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about root")
KINDS = ("link", "dangling", "name", "pipe", "folder")


def plant(kind, path, victim):
    """Put something else where a file of ours is to be."""
    victim.write_text("precious")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("made"))
    elif kind == "name":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


def unharmed(victim):
    """Tell whether nothing was written, given away or made."""
    found = victim.stat()
    made = victim.with_name("made")
    return (
        victim.read_text() == "precious"
        and (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
        and not made.exists()
    )


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lock", "repair.lock"])
def test_a_lock_is_a_file_of_ours(state, tmp_path, name, kind):
    """A link, a second name or a pipe in its place is refused, and not written to."""
    plant(kind, state / name, tmp_path / "victim")
    hold = lock.held if name == "lock" else lock.repairing

    with pytest.raises(ConfigError, match="state_dir: "):
        with hold(state):
            pass
    assert unharmed(tmp_path / "victim")
    assert not lock.is_held(state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_commits_is_in_a_file_of_ours(state, tmp_path, kind):
    """Root, who gives it to the service's user, would give another file away."""
    plant(kind, state / COMMITS_NAME, tmp_path / "victim")
    if os.geteuid() == 0:
        os.chown(state, 12_345, 12_346)

    with pytest.raises(LedgerError, match="ledger"):
        Ledger.open(state)
    assert unharmed(tmp_path / "victim")


def test_a_ledger_is_not_made_where_a_link_leads(state, tmp_path):
    (state / "ledger.sqlite3").symlink_to(tmp_path / "made")

    with pytest.raises(LedgerError):
        Ledger.open(state)
    assert not (tmp_path / "made").exists()


def test_a_ledger_on_another_disk_is_used(state, tmp_path):
    """By a link that its owner made."""
    with closing(Ledger.open(tmp_path)):
        pass
    (state / "ledger.sqlite3").symlink_to(tmp_path / "ledger.sqlite3")
    with closing(Ledger.open(state)) as ledger:
        assert not sum(ledger.queries.counts().values())


@pytest.fixture
def store(state):
    return partial(token.store, token="fresh", reader=state)


@as_root
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_root_puts_a_token_into_a_file_only(state, tmp_path, store, kind):
    """What is there stays as it is."""
    os.chown(state, 12_345, 12_346)
    path = tmp_path / "hq.token"
    plant(kind, path, tmp_path / "victim")
    before = path.lstat().st_ino

    with pytest.raises(OSError, match=r"hq\.token"):
        store(path)
    assert unharmed(tmp_path / "victim")
    assert path.lstat().st_ino == before
    assert not [one for one in tmp_path.iterdir() if one.name[0] == "."]


@as_root
@pytest.mark.parametrize("at", ["a", "a/b"])
def test_root_goes_through_no_link_to_a_token(tmp_path, store, at):
    """The folder itself, or one above it."""
    real = tmp_path / "real"
    (real / "b").mkdir(parents=True)
    if at == "a":
        (tmp_path / "a").symlink_to(real)
    else:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").symlink_to(real / "b")

    with pytest.raises(OSError, match="symbolic links"):
        store(tmp_path / "a" / "b" / "hq.token")
    assert not list((real / "b").iterdir())


def test_a_second_name_of_a_token_keeps_the_old_one(tmp_path, store):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "hq.token").hardlink_to(tmp_path / "victim")
    store(tmp_path / "hq.token")

    assert unharmed(tmp_path / "victim")
    assert (tmp_path / "hq.token").read_text() == "fresh\n"


@pytest.mark.parametrize("mode", [None, 0o600, 0o640, 0o644, 0o666, 0o400])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_token_is_for_the_service_alone(state, tmp_path, store, mode, umask):
    """Whoever could read it before."""
    path = tmp_path / "hq.token"
    owner = (os.geteuid(), os.getegid())
    if os.geteuid() == 0:
        owner = (12_345, 12_346)
        os.chown(state, *owner)
    if mode is not None:
        path.write_text("old")
        path.chmod(mode)
    before = os.umask(umask)
    try:
        store(path)
    finally:
        os.umask(before)
    made = path.stat()

    assert stat.S_IMODE(made.st_mode) == 0o600
    assert (made.st_uid, made.st_gid) == owner
    assert path.read_text() == "fresh\n"


@as_root
def test_without_a_service_yet_the_owner_stays(tmp_path, store, state):
    path = tmp_path / "hq.token"
    path.write_text("old")
    os.chown(path, 12_345, 12_346)
    state.rmdir()
    store(path)

    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 12_346)


def test_a_user_may_keep_a_token_behind_a_link_of_his(tmp_path, monkeypatch, store):
    """He can do no more than he could anyway; the link stays."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "real").write_text("old")
    (tmp_path / "hq.token").symlink_to("real")
    store(tmp_path / "hq.token")

    assert (tmp_path / "hq.token").is_symlink()
    assert (tmp_path / "real").read_text() == "fresh\n"
