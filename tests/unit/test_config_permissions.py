"""What others may write to is not believed: the configuration, the state, the way."""

from __future__ import annotations

import grp
import os
import pwd
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirror import config
from mirror.app import lock
from mirror.app.check import host
from mirror.config import permissions
from mirror.errors import ConfigError

US = os.geteuid()
OTHER = 54_321
as_root = pytest.mark.skipif(US != 0, reason="only root gives files away")
TEXT = """
[sources.hq]
url = "https://vms.example"
[targets.nas]
type = "directory"
path = "/srv/x"
"""


@pytest.fixture
def place(tmp_path):
    """Return a configuration that only we may write to."""
    folder = tmp_path / "etc" / "am"
    (folder / "conf.d").mkdir(parents=True)
    for name in ("archive-mirror.toml", "conf.d/more.toml"):
        (folder / name).write_text(TEXT)
    for one in (folder, folder.parent, *folder.rglob("*")):
        one.chmod(0o755 if one.is_dir() else 0o644)
    return folder


def problems(folder):
    """Return what is wrong with a configuration."""
    try:
        config.load(folder / "archive-mirror.toml", {})
    except ConfigError as exc:
        return exc.problems
    return []


def members(monkeypatch, *, name, listed=(), primary=(), gid=None):
    """Have every group be called so and have these members."""
    ours = pwd.getpwuid(US).pw_name
    users = [SimpleNamespace(pw_name=ours, pw_uid=US, pw_gid=0 if US == 0 else 1)]
    for number, user in enumerate(sorted({*listed, *primary} - {ours})):
        gid = os.getegid() if user in primary else 9999
        users.append(SimpleNamespace(pw_name=user, pw_uid=1000 + number, pw_gid=gid))
    number = os.getegid() if gid is None else gid
    group = SimpleNamespace(gr_name=name, gr_gid=number, gr_mem=list(listed))
    monkeypatch.setattr(grp, "getgrgid", lambda _: group)
    monkeypatch.setattr(pwd, "getpwall", lambda: users)


def test_what_only_we_may_write_to_is_taken(place):
    assert problems(place) == []


@pytest.mark.parametrize(
    "open_one",
    ["archive-mirror.toml", "conf.d/more.toml", "conf.d", ".", ".."],
)
@pytest.mark.parametrize("bits", [0o002, 0o022, 0o020])
def test_what_others_may_write_to_is_refused(place, monkeypatch, open_one, bits):
    """The file, its folder and the one above it; the chmod is told, and helps."""
    members(monkeypatch, name="staff", listed=["alice"])
    found = (place / open_one).resolve()
    found.chmod(found.stat().st_mode | bits)

    (problem,) = problems(place)
    assert f"others may write to {found} (" in problem
    assert f"`chmod go-w {found}`" in problem
    found.chmod(found.stat().st_mode & ~bits)
    assert problems(place) == []


def test_every_fault_is_told_at_once(place):
    """With those of the keys, each once."""
    (place / "conf.d" / "more.toml").write_text("state_dri = 'x'")
    for one in (place, place / "conf.d", place / "archive-mirror.toml"):
        one.chmod(one.stat().st_mode | 0o002)

    found = problems(place)
    assert [one for one in found if "did you mean state_dir" in one]
    assert sum("others may write" in one for one in found) == 3
    assert len(found) == 4
    (place / "archive-mirror.toml").write_text("[")
    assert any("others may write" in one for one in problems(place))


@pytest.mark.parametrize(
    ("group", "listed", "primary", "refused"),
    [
        ("own", [], ["own"], False),
        ("own", ["own"], ["own"], False),
        ("own", [], [], False),
        ("own", ["alice"], ["own"], True),
        ("own", [], ["own", "alice"], True),
        ("own", ["gone"], ["own"], True),
        ("staff", [], ["own"], True),
        ("domain users", [], ["own"], True),
    ],
)
def test_a_group_of_our_own_may_write(
    place, monkeypatch, group, listed, primary, refused
):
    """As umask 002 has it where each user has a group; anybody else in it may not.

    A directory service does not tell who is in `domain users`.
    """
    ours = pwd.getpwuid(US).pw_name
    named = [
        [ours if one == "own" else one for one in each] for each in (listed, primary)
    ]
    name = ours if group == "own" else group
    members(monkeypatch, name=name, listed=named[0], primary=named[1])
    if "gone" in listed:
        monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwuid(US)])
    for one in (place, *place.rglob("*")):
        one.chmod(one.stat().st_mode | 0o020)

    assert bool(problems(place)) is refused


@pytest.mark.parametrize(
    ("gid", "listed", "refused"),
    [(50, [], False), (50, ["alice"], True), (999, [], False), (1000, [], True)],
)
def test_a_group_of_the_system_without_a_member_may_write(
    place, monkeypatch, gid, listed, refused
):
    """As `staff`, to which /usr/local belongs on older Debians."""
    members(monkeypatch, name="staff", listed=listed, gid=gid)
    place.chmod(0o775)

    assert bool(problems(place)) is refused


@pytest.mark.parametrize(("held", "refused"), [(True, False), (False, True)])
def test_a_group_without_a_name_must_be_ours(place, monkeypatch, held, refused):
    """A container's volume may be writable by a number that only it has."""

    def unknown(gid):
        raise KeyError(gid)

    monkeypatch.setattr(grp, "getgrgid", unknown)
    monkeypatch.setattr(os, "getegid", lambda: place.stat().st_gid if held else 77)
    monkeypatch.setattr(os, "getgroups", lambda: [78])
    place.chmod(0o775)

    assert bool(problems(place)) is refused


def test_in_a_sticky_folder_each_may_change_only_his_own(place):
    place.chmod(0o1777)
    assert problems(place) == []
    (place / "conf.d").chmod(0o1777)
    (problem,) = problems(place)
    assert f"chmod go-w {place / 'conf.d'}" in problem


@as_root
@pytest.mark.parametrize("given", ["archive-mirror.toml", "conf.d/more.toml", "conf.d"])
def test_what_belongs_to_another_user_is_refused(place, given):
    """He may change its mode and its text at any time."""
    os.chown(place / given, OTHER, 0)

    (problem,) = problems(place)
    assert f"{place / given} belongs to {OTHER}" in problem
    assert f"`chown root {place / given}`" in problem


@as_root
def test_what_belongs_to_the_service_is_taken_by_root(place, tmp_path):
    """Whoever the state belongs to runs the service."""
    state = tmp_path / "state"
    state.mkdir()
    text = f'state_dir = "{state}"\n'
    for name in ("archive-mirror.toml", "conf.d/more.toml"):
        (place / name).write_text(text + TEXT)
        os.chown(place / name, OTHER, OTHER)
    assert len(problems(place)) == 2
    os.chown(state, OTHER, OTHER)
    assert problems(place) == []


@as_root
def test_an_owner_from_outside_of_a_container_can_do_nothing(monkeypatch, place):
    """The kernel shows all of them as one number."""
    read = Path.read_text
    maps = {"/proc/self/uid_map": "0 1000 1\n", "/proc/sys/kernel/overflowuid": "65534"}
    for one in (place, *place.rglob("*")):
        os.chown(one, 65_534, 65_534)
    assert len(problems(place)) > 1
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *how: maps.get(str(path)) or read(path, *how),
    )
    assert problems(place) == []


def test_the_way_goes_through_links(place, tmp_path):
    """Each folder in which a name is looked up counts, not only the first and last."""
    middle, start = tmp_path / "middle", tmp_path / "start"
    middle.mkdir(mode=0o755)
    start.mkdir(mode=0o755)
    (middle / "am").symlink_to(place)
    (start / "archive-mirror.toml").symlink_to("../middle/am/archive-mirror.toml")
    (start / "archive-mirror.toml").lstat()
    assert problems(start) == []
    middle.chmod(0o777)
    (problem,) = problems(start)
    assert f"chmod go-w {middle}" in problem
    middle.chmod(0o755)
    place.parent.chmod(0o757)
    (problem,) = problems(start)
    assert f"chmod go-w {place.parent}" in problem


@as_root
def test_a_link_of_another_user_is_refused(place, tmp_path):
    """In a sticky folder anybody may put one."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "archive-mirror.toml").symlink_to(place / "archive-mirror.toml")
    assert problems(shared) == []
    os.chown(shared / "archive-mirror.toml", OTHER, OTHER, follow_symlinks=False)
    (problem,) = problems(shared)
    assert "belongs to" in problem


def test_what_is_not_there_or_goes_round_has_no_fault(tmp_path):
    """Whoever opens it tells."""
    (tmp_path / "round").symlink_to("round")
    believed = permissions.trusted(tmp_path)
    for path in (
        tmp_path / "no" / "file",
        tmp_path / "round",
        tmp_path / "round" / "x",
    ):
        assert [*permissions.problems(path, believed)] == []
    assert [*permissions.problems(tmp_path / "x" / ".." / "y", believed)] == []


@pytest.mark.parametrize("open_one", ["state", ".", "state/ledger.sqlite3"])
def test_a_state_that_others_may_write_to_is_not_used(tmp_path, open_one):
    """Neither at start nor by `check`; nothing is made there."""
    state = tmp_path / "am" / "state"
    state.mkdir(parents=True, mode=0o755)
    (state / "ledger.sqlite3").touch(mode=0o600)
    found = (tmp_path / "am" / open_one).resolve()
    found.chmod(0o777)

    with pytest.raises(ConfigError) as refused, lock.held(state):
        pass
    (problem,) = refused.value.problems
    assert re.fullmatch(rf"state_dir: others may .*`chmod go-w {found}`", problem)
    (finding,) = host.state_dir(state)
    assert (finding.name, finding.grade) == ("state_dir", "fail")
    assert finding.detail.endswith(problem.removeprefix("state_dir: "))
    assert not (state / "lock").exists()
    found.chmod(0o700)
    with lock.held(state):
        assert host.state_dir(state) == []


def test_a_sticky_state_is_not_closed(tmp_path):
    """Others may put there what we have not made yet."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o1777)
    with pytest.raises(ConfigError, match="chmod go-w"), lock.held(tmp_path / "state"):
        pass


def test_a_state_by_a_link_is_used_if_the_way_is_ours(tmp_path):
    """As systemd makes it for a user that exists only while the service runs."""
    real = tmp_path / "private" / "state"
    real.mkdir(parents=True, mode=0o700)
    real.parent.chmod(0o755)
    (tmp_path / "state").symlink_to("private/state")
    with lock.held(tmp_path / "state"):
        assert (real / "lock").exists()
    real.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"), lock.held(tmp_path / "state"):
        pass


def test_what_is_made_is_closed_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with lock.held(tmp_path / "a" / "b" / "state"):
            pass
        with lock.held(tmp_path / "a" / "b" / "state"):
            pass
    finally:
        os.umask(before)
    modes = [
        (tmp_path / one).stat().st_mode & 0o777 for one in ("a", "a/b", "a/b/state")
    ]

    assert modes == [0o755, 0o755, 0o700]


@pytest.mark.parametrize(("mode", "found"), [(0o755, 0), (0o777, 1)])
def test_a_command_that_others_may_change_is_told_by_check(
    place, tmp_path, mode, found
):
    """It runs with our rights; the rescue of footage does not wait for it."""
    command = tmp_path / "tell"
    command.touch()
    command.chmod(mode)
    with (place / "archive-mirror.toml").open("w") as file:
        file.write(f'on_event = ["{command}", "x"]\n{TEXT}')
    (place / "conf.d" / "more.toml").unlink()
    settings = config.load(place / "archive-mirror.toml", {})

    assert len(host.on_event(settings)) == found
    assert host.on_event(settings.model_copy(update={"on_event": ()})) == []
    assert host.on_event(settings.model_copy(update={"on_event": ("tell",)})) == []
