"""The simulated VMS keeps a journal, comes back at its place, and runs as a command."""

import asyncio
import io
import signal
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest

from mirror.simulator import (
    Behaviour,
    Life,
    Stage,
    Vms,
    command,
    fault,
)
from mirror.simulator.command import SimulatorOptions
from mirror.simulator.exports import seed_rows
from tests.simulator_client import (
    SIZE,
    get_file,
    get_list,
    list_path,
)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as running:
        yield running


class TestJournal:
    async def test_it_tells_what_was_asked_but_no_secret(self, vms: Vms) -> None:
        export = vms.add(size=SIZE)
        await get_list(vms)
        await get_file(vms, export, 1000, If_Range='"x"')
        listed, fetched = vms.requests

        assert (listed.kind, listed.status, listed.authorized) == ("list", 200, True)
        assert listed.target == list_path()
        assert "demo-token" not in repr(listed)
        assert (fetched.kind, fetched.export_id) == ("file", export.export_id)
        assert (fetched.range, fetched.if_range) == ("bytes=1000-", '"x"')
        assert (fetched.authorized, fetched.sent_bytes) == (False, SIZE)
        assert vms.file_requests(export) == [fetched]
        assert vms.journal.counters["file_200"] == 1
        assert vms.journal.peak_in_flight == 1

    async def test_it_keeps_only_so_many(self) -> None:
        lines: list[str] = []
        async with Vms(
            journal_capacity=3, on_request=lambda each: lines.append(each.line())
        ) as vms:
            for _ in range(5):
                await get_list(vms)

        assert [each.number for each in vms.requests] == [3, 4, 5]
        assert vms.journal.counters["requests"] == 5
        assert len(lines) == 5
        assert "  200 " in lines[0]

    async def test_a_test_can_wait_for_bytes_that_were_sent(self, vms: Vms) -> None:
        slow = fault("slow", rate=50_000)
        export = vms.add(size=SIZE, faults=[slow])
        reader, writer = await asyncio.open_connection("127.0.0.1", vms.port)
        writer.write(f"GET {vms.file_path(export)} HTTP/1.0\r\n\r\n".encode())
        async with asyncio.timeout(60):
            await vms.until(lambda: any(r.sent_bytes > 20_000 for r in vms.requests))

        assert 20_000 < vms.requests[-1].sent_bytes < SIZE
        assert vms.requests[-1].ended is None
        assert len(await reader.read(1000)) > 0
        writer.close()

    async def test_the_vms_can_go_and_come_back_at_its_place(self) -> None:
        vms = Vms()
        async with vms:
            export, port = vms.add(size=SIZE), vms.port
        with pytest.raises(OSError, match=r"."):
            await get_file(vms, export)
        async with vms:
            assert vms.port == port
            assert (await get_file(vms, export)).status == 200


class TestCommand:
    async def test_it_serves_prints_a_configuration_and_ends_on_a_signal(self) -> None:
        output = io.StringIO()
        options = SimulatorOptions(
            port=0,
            literal_seed=True,
            behaviour=Behaviour(folder_urls=True),
            output=output,
        )
        serving = asyncio.create_task(command.serve(options))
        async with asyncio.timeout(60):
            while "simulator-archive" not in output.getvalue():
                await asyncio.sleep(0.01)
            settings = tomllib.loads(output.getvalue())
            place = urlsplit(settings["sources"]["simulator"]["url"])
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            name = quote(seed_rows()[0]["name"])
            writer.write(
                f"GET /storage/{name} HTTP/1.0\r\nRange: bytes=0-9\r\n\r\n".encode()
            )
            received = await reader.read()
            writer.close()
            signal.raise_signal(signal.SIGTERM)
            await serving

        assert received.startswith(b"HTTP/1.1 206") or b" 206 " in received[:20]
        assert settings["targets"]["local"]["type"] == "directory"
        assert "bytes=0-9  206 10 B" in output.getvalue()

    async def test_a_population_of_all_ages_lives_and_dies(self) -> None:
        now = datetime.now(UTC)
        life = Life(
            arrivals_per_min=1,
            generation_delay=timedelta(seconds=20),
            file_lifetime=timedelta(hours=3),
        )
        options = SimulatorOptions(port=0, initial=5, life=life)
        vms = command.build(options, clock=lambda: now)
        command.populate(vms, options)
        at_start = [each.stage for each in vms.exports]
        now += timedelta(hours=1, minutes=31)
        vms.advance()

        stages = [each.stage for each in vms.exports]
        assert at_start == [Stage.MADE] * 5
        assert stages[:5] == [Stage.DELETED] * 3 + [Stage.MADE] * 2
        assert len(stages) > 5
