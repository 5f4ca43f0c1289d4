"""An application that serves judges (rewards/wire.py): requests are read and bounded, gathered into batches, and judged one
batch at a time, since there is one device."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import io
import json
import sys
import traceback
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards import wire
from mvgrpo_jax.rewards.base import Judge
from mvgrpo_jax.rewards.panel import Panel
from mvgrpo_jax.rewards.preprocess import as_uint8
from mvgrpo_jax.rewards.scoring import as_rgb


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a request: pictures, captions of a picture, pixels of a picture, bytes of the body. requests: those under
    way at a time; further ones are sent away. batch: pictures that are judged at once."""

    pictures: int = 64
    captions: int = 256
    pixels: int = 4096 * 4096
    body: int = 256 * 2**20
    requests: int = 256
    batch: int = 16


@dataclasses.dataclass
class Work:
    """Pictures uint8 [n, H, W, 3] of one request and of one size, under captions [n][V]."""

    judge: str
    images: np.ndarray
    captions: wire.Captions
    done: asyncio.Future

    @property
    def like(self) -> tuple:
        """What work must share to be judged together."""
        return self.judge, self.images.shape[1:], len(self.captions[0])


class Server:
    """Judges by name, asked about batches. token: what a request must bear; '' where none is asked for."""

    def __init__(self, judges: dict[str, Judge], limits: Limits = Limits(), token: str = ""):
        self.panel, self.limits, self.token = Panel(judges), limits, token
        self.waiting: deque[Work] = deque()
        self.there = asyncio.Event()
        self.open = self.answered = self.batches = 0

    def app(self) -> Starlette:
        async def failed(request: Request, error: HTTPException) -> Response:
            return JSONResponse({"error": {"message": error.detail}}, error.status_code, headers=error.headers)

        routes = [Route("/health", self.health), Route("/score", self.score, methods=["POST"])]
        return Starlette(routes=routes, lifespan=self.lifespan, exception_handlers={HTTPException: failed})

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self.work())
        try:
            yield
        finally:
            task.cancel()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"judges": list(self.panel.judges), "open": self.open, "answered": self.answered})

    async def score(self, request: Request) -> Response:
        self.admit(request)
        self.open += 1
        try:
            name, files, captions = await self.read(request)
            pictures = await asyncio.to_thread(lambda: [self.picture(i, file) for i, file in enumerate(files)])
            scores = await self.judged(name, pictures, wire.read_captions(captions, len(pictures)))
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        finally:
            self.open -= 1
        self.answered += 1
        return Response(wire.answer(name, scores), media_type="application/json")

    def admit(self, request: Request) -> None:
        """Before a byte of its pictures is read."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise HTTPException(401, "expected the header Authorization: Bearer TOKEN with the server's token")
        if self.open >= self.limits.requests:
            raise HTTPException(503, f"{self.open} requests are under way already", headers={"retry-after": "1"})

    async def read(self, request: Request) -> tuple[str, list[bytes], Any]:
        """(name of the judge, picture files, captions) of a request, as JSON or as a form."""
        body, kind = await self.body(request), request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "multipart/form-data":
            name, files, captions = await self.form(request, body)
        else:
            value = parsed(body)
            if not isinstance(value, dict) or not isinstance(value.get("images"), list):
                raise UserError('expected a JSON object with "images", a list of base64 texts, and "captions"')
            name, files, captions = value.get("judge", ""), list(map(wire.decode, value["images"])), value.get("captions")
        if not 1 <= len(files) <= self.limits.pictures:
            raise HTTPException(413 if files else 400, f"{len(files)} pictures; expected 1 to {self.limits.pictures}")
        names = list(self.panel.judges)
        if name in (None, "") and len(names) == 1:
            name = names[0]
        if name not in names:
            near = did_you_mean(name, names) if isinstance(name, str) else ""
            raise HTTPException(404, f"no judge {name!r} here;{near} there are: {', '.join(names)}")
        return name, files, captions

    async def body(self, request: Request) -> bytes:
        """All of it, unless it is too large, which the first of its bytes may say."""
        out, read, size = [], 0, int(request.headers.get("content-length", "0"))
        async for part in request.stream():
            out.append(part)
            read += len(part)
            if max(size, read) > self.limits.body:
                raise HTTPException(413, f"the request is over {self.limits.body} bytes; send fewer pictures at once")
        return b"".join(out)

    async def form(self, request: Request, body: bytes) -> tuple[str, list[bytes], Any]:
        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        whole = Request(request.scope, receive)
        try:
            async with whole.form(max_files=self.limits.pictures + 1, max_part_size=self.limits.body) as fields:
                files = [await f.read() for f in fields.getlist("images") if isinstance(f, UploadFile)]
                return str(fields.get("judge", "")), files, parsed(str(fields.get("captions", "")).encode())
        except (MultiPartException, HTTPException) as error:
            raise UserError(f"a form that cannot be read: {getattr(error, 'detail', error)}") from None

    def picture(self, number: int, file: bytes) -> np.ndarray:
        """uint8 [H, W, 3] of a file, of whatever mode."""
        try:
            with Image.open(io.BytesIO(file)) as image:
                if image.width * image.height > self.limits.pixels:
                    raise HTTPException(
                        413,
                        f"picture {number} has {image.width} x {image.height} pixels; at most {self.limits.pixels} are read",
                    )
                return as_uint8(as_rgb(image)[0])
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"picture {number} is no picture that can be read ({error}); expected PNG, JPEG or WebP") from None

    async def judged(self, name: str, pictures: list[np.ndarray], captions: wire.Captions) -> np.ndarray:
        """float32 [N, V], not-a-number where there is no score. Pictures of one size are judged together, also with those of
        other requests."""
        views = len(captions[0])
        if views > self.limits.captions:
            raise HTTPException(413, f"{views} captions of a picture; at most {self.limits.captions} are read")
        scores = np.zeros((len(pictures), views), np.float32)
        sizes: dict[tuple, list[int]] = {}
        for i, picture in enumerate(pictures):
            sizes.setdefault(picture.shape, []).append(i)
        parts = [rows[k : k + self.limits.batch] for rows in sizes.values() for k in range(0, len(rows), self.limits.batch)]
        futures = [self.put(name, np.stack([pictures[i] for i in rows]), [captions[i] for i in rows]) for rows in parts]
        for rows, result in zip(parts, await asyncio.gather(*futures)):
            scores[rows] = result
        return scores

    def put(self, name: str, images: np.ndarray, captions: wire.Captions) -> asyncio.Future:
        work = Work(name, images, captions, asyncio.get_running_loop().create_future())
        self.waiting.append(work)
        self.there.set()
        return work.done

    async def work(self) -> None:
        """Judges what waits, for ever: the oldest, and with it what is like it, as far as a batch goes."""
        while True:
            await self.there.wait()
            batch, rest, room = [], deque(), self.limits.batch
            for work in self.waiting:
                fits = len(work.images) <= room and (not batch or work.like == batch[0].like)
                (batch if fits else rest).append(work)
                room -= len(work.images) if fits else 0
            self.waiting = rest
            if not rest:
                self.there.clear()
            await self.judge(batch)

    async def judge(self, batch: list[Work]) -> None:
        """Fulfils a batch's futures. What fails together is tried one by one, so that a request fails for its own sake."""
        images = np.concatenate([work.images for work in batch])
        captions = [row for work in batch for row in work.captions]
        try:
            self.batches += 1
            result = await asyncio.to_thread(self.ask, batch[0].judge, images, captions)
        except Exception as error:  # whatever a judge raises: the server goes on
            if len(batch) > 1:
                for work in batch:
                    await self.judge([work])
                return
            if not isinstance(error, UserError):
                traceback.print_exception(error, file=sys.stderr)
                error = HTTPException(500, f"the judge {batch[0].judge!r} failed: {type(error).__name__}: {error}")
            if not batch[0].done.cancelled():
                batch[0].done.set_exception(error)
            return
        first = 0
        for work in batch:
            rows = slice(first, first := first + len(work.images))
            if not work.done.cancelled():
                work.done.set_result(result[rows])

    def ask(self, name: str, images: np.ndarray, captions: wire.Captions) -> np.ndarray:
        """float32 [N, V], not-a-number where there is no score. For a judge on the device the numbers of pictures and captions
        are filled up to powers of two, so that few programs are compiled."""
        count, views = len(images), len(captions[0])
        n, v = (_power(count), _power(views)) if name in self.panel.params else (count, views)
        images = images[np.minimum(np.arange(n), count - 1)]
        texts = [[row[i] if i < views else None for row in captions] + [None] * (n - count) for i in range(v)]
        return self.panel.score(name, Owned(jnp.asarray(images)[:, None], 1), texts)[:views, :count, 0].T


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request is not valid JSON ({error})") from None


def _power(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()
