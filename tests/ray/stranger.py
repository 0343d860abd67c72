"""A program, run on what stands for another host: tries ports without a token, and prints what each of them answers.

    python stranger.py <host> <port> ...

One JSON object: port -> answers, those that give something away with "OPEN" in front.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import socket
import sys

import grpc
import ray.core.generated

HTTP_REQUESTS = ("GET /", "GET /metrics", "GET /api/local_raylet_healthz", "POST /get_runtime_envs_info")
PUBLIC = ("GET /api/local_raylet_healthz",)  # of Ray's agent: that a node is alive
OBJECTS = [f"/ray.rpc.ObjectManagerService/{name}" for name in ("Push", "Pull", "FreeObjects")]  # only in C++


def methods() -> list[str]:
    """Every procedure that any of Ray's gRPC servers has."""
    found = [*OBJECTS]
    for module in pkgutil.iter_modules(ray.core.generated.__path__):
        if module.name.endswith("_pb2"):
            services = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR.services_by_name
            found += [f"/{service.full_name}/{m.name}" for service in services.values() for m in service.methods]
    return found


def http(host: str, port: int, request: str) -> bytes:
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.settimeout(5)
        body = "Content-Length: 0\r\n" if request.startswith("POST") else ""
        connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\n{body}Connection: close\r\n\r\n".encode())
        try:
            return connection.recv(200)
        except OSError:
            return b""


def answers(host: str, port: int) -> list[str]:
    try:
        first = http(host, port, "GET /")
    except OSError:
        return ["unreachable"]
    if first.startswith(b"HTTP/"):
        return [_http_answer(host, port, request) for request in HTTP_REQUESTS]
    if first[3:4] == b"\x04":  # a SETTINGS frame: HTTP/2, which gRPC speaks
        return _grpc_answers(host, port)
    return ["OPEN: accepts connections, speaks neither HTTP nor gRPC"]


def _http_answer(host: str, port: int, request: str) -> str:
    status = int(http(host, port, request).split()[1])
    return f"{'' if status in (401, 403) or request in PUBLIC else 'OPEN: '}{request}: {status}"


def _grpc_answers(host: str, port: int) -> list[str]:
    counts: dict[str, int] = {}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in methods():
            try:
                channel.unary_unary(method)(b"", timeout=5)
                answer = f"OPEN: {method}"
            except grpc.RpcError as error:
                code = error.code().name
                answer = code if code in ("UNAUTHENTICATED", "UNIMPLEMENTED") else f"OPEN: {method}: {code}"
            counts[answer] = counts.get(answer, 0) + 1
    if "UNAUTHENTICATED" not in counts:
        counts["OPEN: no procedure asks for a token"] = 1
    return sorted(counts)


if __name__ == "__main__":
    print(json.dumps({port: answers(sys.argv[1], int(port)) for port in sys.argv[2:]}))
