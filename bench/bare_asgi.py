"""The yardstick of the HTTP edge: an ASGI app that only decodes a request and encodes an answer.

It runs under the same uvicorn, uvloop and httptools settings as Fiscus. The body is decoded into
plain objects, unchecked; the answer is one of Fiscus's own, as plain objects, encoded each time.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvicorn


class BareApp:
    """Answers every POST with `answer`, a JSON document."""

    def __init__(self, answer: bytes, status: int) -> None:
        self._answer = msgspec.json.decode(answer)
        self._status = status
        self._decode = msgspec.json.Decoder().decode
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        if body:
            self._decode(body)
        payload = self._encode(self._answer)
        await send(
            {
                "type": "http.response.start",
                "status": self._status,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(payload)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": payload})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


def main() -> None:
    port, answer, status = sys.argv[1:]
    uvicorn.run(
        BareApp(Path(answer).read_bytes(), int(status)),
        host="127.0.0.1",
        port=int(port),
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
    )


if __name__ == "__main__":
    main()
