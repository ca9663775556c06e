"""Devices that connect, report it, and stay idle until they are stopped."""

from __future__ import annotations

import json
import select
import sys
import time

from tests.bench.sockets import Frames, client_frame, open_device


def main() -> None:
    job = json.loads(sys.stdin.readline())
    started = time.perf_counter()
    devices = [open_device(job["gateway"], token)[0] for token in job["tokens"]]
    print(json.dumps({"connected_s": time.perf_counter() - started}), flush=True)
    poll = select.epoll()
    buffers = {}
    by_number = {device.fileno(): device for device in devices}
    for number, device in by_number.items():
        poll.register(device, select.EPOLLIN)
        buffers[number] = Frames()
    poll.register(sys.stdin, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == sys.stdin.fileno():
                return
            for text in buffers[number].feed(by_number[number].recv(65_536)):
                if text.startswith(b'{"ping":'):
                    by_number[number].sendall(client_frame({"pong": json.loads(text)["ping"]}))


if __name__ == "__main__":
    main()
