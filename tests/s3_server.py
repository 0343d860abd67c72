"""A real S3 server (moto) on a fixed port of loopback that can go away and come back."""

from __future__ import annotations

import socket
import threading


class Server:
    """What it stores stays while it is away."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables of its clients."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def away(self, seconds: float) -> threading.Timer:
        """Go away now, and come back after some seconds."""
        self.stop()
        back = threading.Timer(seconds, self.start)
        back.start()
        return back
