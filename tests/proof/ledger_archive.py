"""A site whose ledger is harmed, and what must come back."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirror.app.rebuild import rebuild
from mirror.app.status import public_json
from mirror.errors import LedgerError
from mirror.ledger import LEDGER_NAME, Filter, Ledger
from mirror.simulator import Fault, Kind, Stage, Vms
from mirror.simulator.exports import stamp
from tests.proof.checker import Checker, Offered
from tests.site import Site

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from mirror.simulator import Export as Served

SIZE = 20_000
SAVED = 12
REMEDY = "archive-mirror rebuild"
_FACTS = (
    *("source", "id", "created_at", "state", "name", "camera_id", "stream_type"),
    *("footage_from", "footage_to", "first_seen", "deadline", "size_bytes", "sha256"),
)


@dataclass(slots=True)
class Archive:
    """A site whose ledger knows exports in many states, and what must come back.

    Attributes:
        right: What `list --json` shows of each export after one more run, by id.
        breaks: What harm was met, in words.
    """

    site: Site
    vms: Vms
    folder: Path
    checker: Checker
    right: dict[int, dict[str, Any]] = field(default_factory=dict)
    breaks: list[str] = field(default_factory=list)
    remedy: str = REMEDY

    @property
    def ledger(self) -> Path:
        """Where the ledger lies."""
        return self.folder / "state" / LEDGER_NAME

    @property
    def _kept(self) -> Path:
        return self.folder.with_name("pristine")

    @classmethod
    async def make(cls, folder: Path, vms: Vms) -> Archive:
        """Let the real pipeline fill it; the VMS forgets half of what is saved."""
        home = folder / "home"
        home.mkdir()
        site = Site.make(home, vms)
        for target in ("nas", "usb"):
            site.tables["targets"][target] = {
                "type": "directory",
                "path": str(home / target),
                "layout": "{source}/{camera_id}/{id}",
            }
        checker = Checker({"nas": home / "nas", "usb": home / "usb"})
        made = cls(site, vms, home, checker)
        saved = [vms.add(size=SIZE, camera_id=n % 3) for n in range(SAVED)]
        vms.add(size=SIZE, stage=Stage.ASKED)
        lost = vms.add(size=SIZE)
        vms.script(lost, then=Fault(kind=Kind.STATUS, status=404))
        await site.once()
        for served in saved[::4]:
            vms.delete_file(served)
        for served in saved[1::4]:
            vms.remove_row(served)
        await site.once()
        for served in saved:
            checker.offer(offered(vms, served))
        shutil.copytree(home, made._kept)
        await site.once()
        made.right = {one["id"]: one for one in made.listed()}
        counts = Counter(one["state"] for one in made.right.values())
        assert counts == {"saved": SAVED, "waiting": 2}
        made.restore()
        return made

    def restore(self) -> None:
        """Put all back as it was, under the same paths."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)

    def restore_state(self) -> None:
        """Put the ledger back."""
        shutil.rmtree(self.folder / "state")
        shutil.copytree(self._kept / "state", self.folder / "state")

    def listed(self) -> list[dict[str, Any]]:
        """Return what `list --json` shows."""
        state_dir = self.ledger.parent
        with Ledger.reading(state_dir, check=True) as ledger:
            return [
                public_json.export(*one) for one in ledger.queries.exports(Filter())
            ]

    def counts(self) -> dict[str, int]:
        """Return the counts that `status` shows, by state."""
        found: Counter[str] = Counter()
        with Ledger.reading(self.ledger.parent, check=True) as ledger:
            for (_, state), number in ledger.queries.counts().items():
                found[state] += number
        return dict(found)

    async def met(self, *, partly: bool = False) -> str:
        """Run `status`, `list`, `once`; return `detected`, `harmless` or `harmful`.

        Args:
            partly: The damage may take away what was done last, so that less is known;
                nothing wrong may be said all the same.
        """
        self.breaks, told = [], 0
        for ask in (self.counts, self.listed):
            try:
                ask()
            except LedgerError as exc:
                told += 1
                self._judge_text(str(exc))
        try:
            await self.site.once()
        except LedgerError as exc:
            self._judge_text(str(exc))
            # Before `once` a ledger of no length reads as an empty one, as it must.
            if told != 2:
                self.breaks.append("`once` refuses a ledger that `status` believes")
        else:
            if told:
                self.breaks.append("`once` takes a ledger that `status` refuses")
            self._judge_claims(partly=partly)
        self.checker.breaks.clear()
        self.checker.look()
        self.breaks += self.checker.breaks
        if self.breaks:
            return "harmful"
        return "detected" if told else "harmless"

    async def rebuilt(self, *, force: bool = False) -> list[str]:
        """Rebuild; return what of the saved exports did not come back as it was."""
        settings = self.site.settings()
        done = await rebuild.run(
            settings,
            targets=list(settings.targets),
            force=force,
            told=lambda _: None,
            watch=lambda _: None,
        )
        breaks = [] if done.aside is None or done.aside.exists() else ["not aside"]
        found = {one["id"]: one for one in self.listed()}
        for number, right in self.right.items():
            if right["state"] == "saved":
                breaks += differences(right, found.get(number), fetched=True)
        self.checker.breaks.clear()
        self.checker.look()
        return breaks + self.checker.breaks

    def _judge_text(self, text: str) -> None:
        if str(self.ledger) not in text or self.remedy not in text:
            self.breaks.append(f"the text names not both file and remedy: {text}")

    def _judge_claims(self, *, partly: bool) -> None:
        found = {one["id"]: one for one in self.listed()}
        for number, right in self.right.items():
            now = found.pop(number, None)
            if not partly:
                self.breaks += differences(right, now)
            elif now is not None and now["state"] == "saved":
                self.breaks += differences(right, now, fetched=True)
            elif now is not None and now["state"] in {"lost", "damaged"}:
                self.breaks.append(f"hq/{number} is {now['state']}")
        self.breaks += [f"hq/{number} was never listed" for number in found]


def differences(
    right: dict[str, Any], found: dict[str, Any] | None, *, fetched: bool = False
) -> list[str]:
    """Return which facts of an export are not as they should be.

    Args:
        right: As they should be.
        found: As they are.
        fetched: Only those that a fetch leaves the same if it is done once more.
    """
    label = f"hq/{right['id']}"
    if found is None:
        return [f"{label} is not known"]
    names = [n for n in _FACTS if not (fetched and n in {"first_seen", "deadline"})]
    wrong = [
        f"{label}: {name} is {found[name]!r}, not {right[name]!r}"
        for name in names
        if found[name] != right[name]
    ]
    places = [
        sorted((one["target"], one["state"], one["path"]) for one in row["copies"])
        for row in (right, found)
    ]
    if places[0] != places[1]:
        wrong.append(f"{label}: its copies are {places[1]}, not {places[0]}")
    return wrong


def offered(vms: Vms, served: Served) -> Offered:
    """Return what the checker is told of an export."""
    truth = vms.truth(served)
    return Offered(
        source="hq",
        export_id=served.export_id,
        created_at=stamp(served.created_at),
        hashes=frozenset(sha256 for _, sha256 in truth.versions),
    )


def flip(content: bytes, number: int, rng: random.Random) -> bytes:
    """Change one byte: any, or one that is not zero, which is likely in use."""
    found = bytearray(content)
    offset = rng.randrange(len(found))
    while number % 2 and not found[offset]:
        offset = rng.randrange(len(found))
    found[offset] ^= rng.randrange(1, 256) if number % 3 else 1 << rng.randrange(8)
    return bytes(found)
