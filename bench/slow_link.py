"""A link of 50 ms and 100 Mbit/s on the loopback: `python -m bench.slow_link`.

Prints its port, then passes connections on until it is ended. A second line on its
standard input is answered with the bytes that came from the server so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys


class Link:
    """Carries bytes after a delay, all connections together within one rate.

    Args:
        rate: Bytes per second, each way.
        delay_s: From one end to the other.
        cut_bytes: A connection is cut when it brought so much; 0: none is.
    """

    def __init__(self, rate: float, delay_s: float, cut_bytes: int) -> None:
        self.received = 0
        self._rate = rate
        self._delay_s = delay_s
        self._cut_bytes = cut_bytes
        self._free_at = {"up": 0.0, "down": 0.0}

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        """Carry one direction of a connection to its end."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(reader, queue, way))
            group.create_task(self._give(writer, queue))

    async def _take(
        self,
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        way: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        brought = 0
        while piece := await reader.read(16 * 1024):
            begin = max(loop.time(), self._free_at[way])
            self._free_at[way] = begin + len(piece) / self._rate
            await asyncio.sleep(self._free_at[way] - loop.time())
            await queue.put((self._free_at[way] + self._delay_s, piece))
            if way == "down":
                self.received += len(piece)
                brought += len(piece)
            if self._cut_bytes and brought >= self._cut_bytes:
                break
        await queue.put((loop.time() + self._delay_s, b""))

    async def _give(
        self, writer: asyncio.StreamWriter, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                at, piece = await queue.get()
                await asyncio.sleep(at - loop.time())
                if not piece:
                    break
                writer.write(piece)
                await writer.drain()
        writer.close()


async def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="the server's, on the loopback")
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--delay-ms", type=float, default=50)
    parser.add_argument("--cut-bytes", type=int, default=0)
    given = parser.parse_args()
    link = Link(given.mbit * 125_000, given.delay_ms / 1000, given.cut_bytes)

    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, ExceptionGroup):
            far = await asyncio.open_connection("127.0.0.1", given.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(link.carry(reader, far[1], "up"))
                group.create_task(link.carry(far[0], writer, "down"))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(link.received, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
