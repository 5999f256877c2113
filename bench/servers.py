"""nginx serves the files; it passes the list on from the bundled VMS simulator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.simulator import Behaviour, Vms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.corpus import Corpus

_NGINX = """
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
{user}
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_timeout 75; keepalive_requests 10000000;
  types {{ video/mp4 mp4; }}
  open_file_cache max=20000 inactive=600s; open_file_cache_valid 600s;
  client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{http};
    listen 127.0.0.1:{https} ssl;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:S:10m;
    root {root};
    autoindex on;
    location /api/ {{ proxy_pass {list_url}; }}
  }}
}}
"""


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the files are.

    Attributes:
        urls: By scheme: `http`, `https`.
        cert: What the https server proves itself with.
        token: What the list asks for.
    """

    urls: dict[str, str]
    cert: Path
    token: str


@contextlib.contextmanager
def serving(folder: Path, root: Path, corpus: Corpus) -> Iterator[Servers]:
    """Serve one corpus and its list until the block ends.

    Args:
        folder: For nginx's own files.
        root: Where the corpora lie, each in a folder of its name.
        corpus: What the list names.
    """
    _certificate(folder)
    http, https = free_port(), free_port()
    with _list_of(corpus) as (list_url, token):
        user = "user root;" if os.geteuid() == 0 else ""
        text = _NGINX.format(
            folder=folder,
            root=root,
            http=http,
            https=https,
            list_url=list_url,
            user=user,
        )
        (folder / "nginx.conf").write_text(text)
        nginx = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
        try:
            for port in (http, https):
                _until_open(port, nginx)
            urls = {
                "http": f"http://127.0.0.1:{http}",
                "https": f"https://127.0.0.1:{https}",
            }
            yield Servers(urls, folder / "cert.pem", token)
        finally:
            nginx.terminate()
            nginx.wait(30)


@contextlib.contextmanager
def _list_of(corpus: Corpus) -> Iterator[tuple[str, str]]:
    """Serve a list whose urls are relative, from a thread; give its url and token."""
    started = threading.Event()
    box: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, str, str]] = []

    async def serve() -> None:
        async with Vms(
            behaviour=Behaviour(relative_urls=True), other_origin=False
        ) as vms:
            for number, name in enumerate(corpus.names()):
                vms.add(export_id=number + 1, url=f"/{corpus.name}/{name}", size=20_000)
            end = asyncio.Event()
            box.append((asyncio.get_running_loop(), end, vms.url, vms.token))
            started.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    if not started.wait(60):
        raise RuntimeError("the list does not start")
    loop, end, url, token = box[0]
    try:
        yield url, token
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)


def _certificate(folder: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
        "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 "
        f"-keyout {folder}/key.pem -out {folder}/cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True)


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        if process.poll() is not None:
            break
        threading.Event().wait(0.05)
    raise RuntimeError(f"nginx does not listen on port {port}")
