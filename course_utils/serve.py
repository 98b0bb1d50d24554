"""Serve one model to many clients over HTTP: the original ChatGLM API and an OpenAI-style one.

    python -m course_utils.serve FOLDER
    curl http://127.0.0.1:8000/ -d '{"prompt": "你好", "history": []}'

The model answers one client at a time, in the order of arrival. A client that goes away gives its turn to
the next at once. Nothing listens on anything but this machine unless `--host` says so.
"""

import argparse
import asyncio
import base64
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from course_utils.chatglm.conversation import Reply, stream_chat
from course_utils.messages import CourseError, Text

log = logging.getLogger("uvicorn.error")


# --- what clients may ask


class Question(BaseModel):
    """A request body. Types are not guessed: "0.8" is no number."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


Body = TypeVar("Body", bound=Question)
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
StopText = Annotated[str, Field(min_length=1)]


class PlainQuestion(Question):
    """The body of `POST /`, with the names of the original `api.py`."""

    prompt: str
    history: list[Any] = []
    max_length: Count | None = None
    top_p: TopP | None = None
    temperature: Temperature | None = None


class ContentPart(Question):
    type: Literal["text"]
    text: str


class ChatMessage(Question):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]

    def as_message(self) -> dict[str, str]:
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(Question):
    include_usage: bool = False


class ChatQuestion(Question):
    """The body of `POST /v1/chat/completions`. What is not named here has no effect, except:"""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    # these are refused, because an answer without them would be another answer than the one asked for.
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


class EmbeddingQuestion(Question):
    """The body of `POST /v1/embeddings`."""

    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


# --- the service


@dataclass
class Service:
    """One model and its limits."""

    model: Any
    tokenizer: Any
    name: str
    embedder: Any = None
    embedder_name: str = ""
    api_key: str | None = None
    max_body: int = 512 * 1024
    """Bytes of a request."""
    max_tokens: int = 2048
    """Tokens of an answer."""
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    started: int = field(default_factory=lambda: int(time.time()))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.plain, methods=["POST"]),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
                Route("/v1/embeddings", self.embeddings, methods=["POST"]),
                Route("/v1/models", self.models, methods=["GET"]),
                Route("/health", self.health, methods=["GET"]),
            ],
            exception_handlers={
                CourseError: lambda request, error: _error(400, error.text.en, error.text.zh),
                HTTPException: lambda request, error: _error(error.status_code, error.detail),
                ClientDisconnect: lambda request, error: Response(status_code=499),
                Exception: lambda request, error: _error(500, f"the model failed: {error!s:.300}"),
            },
        )

    async def read(self, request: Request, kind: type[Body]) -> Body:
        """The checked body of a request."""
        self.check_key(request)
        body, size = bytearray(), 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self.max_body:
                body += chunk
            elif size > 64 * self.max_body:
                break  # up to here the rest is read and dropped: a client still sending would hear no answer
        if size > self.max_body:
            raise HTTPException(413, f"the body is larger than {self.max_body} bytes: send less text")
        try:
            question = kind.model_validate(content := json.loads(body.decode("utf-8")))
            # Python reads more than JSON has, and an answer that repeats it could not be sent.
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
            return question
        except UnicodeDecodeError as error:
            raise HTTPException(400, f"byte {error.start} of the body is not UTF-8: send JSON in UTF-8") from None
        except UnicodeEncodeError:
            raise HTTPException(400, r"the body holds half a character (such as \ud83d): send JSON in UTF-8") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise HTTPException(422, f"{where}: {first['msg']}") from None
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not JSON ({error!s:.100}): send one JSON object") from None

    def check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Bytes, because a header may hold anything.
        if scheme.lower() != "bearer" or not secrets.compare_digest(key.encode(), self.api_key.encode()):
            raise HTTPException(401, "wrong or missing key: send the header 'Authorization: Bearer KEY'")

    async def answer(
        self, request: Request, messages: list[Any], query: str, max_new_tokens: int | None, **options: Any
    ) -> AsyncIterator[str | Reply]:
        """The pieces of an answer and, last, the reply; fails at once where the question is wrong."""
        cancel = threading.Event()
        prepare = partial(
            stream_chat,
            self.model,
            self.tokenizer,
            query,
            messages,
            max_new_tokens=min(max_new_tokens or self.max_tokens, self.max_tokens),
            notice=lambda text: log.info(text.en),
            cancel=cancel,
            **{name: value for name, value in options.items() if value is not None},
        )
        # A long history takes its time, and meanwhile the others want to be heard. One at a time: the order of
        # arrival stays, and the threads that answers are written in stay free.
        async with self.preparing:
            pieces = await anyio.to_thread.run_sync(prepare)
        written: asyncio.Queue[str | Reply | Exception] = asyncio.Queue()

        def next_piece() -> str | Reply:
            try:
                return next(pieces)
            except StopIteration as end:
                return end.value

        async def write() -> None:
            """Write the answer in one go: a client that does not read must not hold the turn."""
            piece: str | Reply | Exception = ""
            try:
                async with self.turn:
                    try:
                        while not isinstance(piece, Reply):
                            if cancel.is_set():
                                raise ClientDisconnect
                            if piece:
                                written.put_nowait(piece)
                            piece = await anyio.to_thread.run_sync(next_piece)
                    finally:
                        # The turn is over only when the computation is.
                        await anyio.to_thread.run_sync(pieces.close)
            except Exception as error:
                piece = error
            written.put_nowait(piece)

        async def take_turn() -> AsyncIterator[str | Reply]:
            watcher = asyncio.create_task(_set_when_gone(request, cancel))
            writer = asyncio.create_task(write())
            try:
                piece: str | Reply | Exception = ""
                while not isinstance(piece, Reply):
                    piece = await written.get()
                    if isinstance(piece, Exception):
                        raise piece
                    yield piece
            finally:
                cancel.set()
                with anyio.CancelScope(shield=True):
                    await writer
                watcher.cancel()

        return take_turn()

    # --- the original API

    async def plain(self, request: Request) -> Response:
        """`POST /`: {prompt, history, max_length, top_p, temperature} → {response, history, status, time}."""
        question = await self.read(request, PlainQuestion)
        reply = await _last(
            await self.answer(
                request,
                question.history,
                question.prompt,
                None,
                max_length=question.max_length,
                top_p=question.top_p,
                temperature=question.temperature,
            )
        )
        return JSONResponse(
            {
                "response": reply.answer,
                "history": reply.history,
                "status": 200,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )

    # --- the OpenAI-style API

    async def completions(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        question = await self.read(request, ChatQuestion)
        *history, last = [message.as_message() for message in question.messages]
        if last["role"] != "user":
            raise HTTPException(422, "messages: the last one must have the role 'user'")
        if self.tokenizer.generation <= 2 and history and history[0]["role"] == "system":
            # These know no system role; as the original server did, the instruction goes before the question.
            last = {**last, "content": history.pop(0)["content"] + "\n" + last["content"]}
        pieces = await self.answer(
            request,
            history,
            last["content"],
            question.max_completion_tokens or question.max_tokens,
            temperature=question.temperature,
            top_p=question.top_p,
            seed=question.seed,
            stop=question.stop,
        )
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": self.name}
        if question.stream:
            with_usage = question.stream_options is not None and question.stream_options.include_usage
            return StreamingResponse(_events(pieces, head, with_usage), media_type="text/event-stream")
        reply = await _last(pieces)
        message = {"role": "assistant", "content": _content(reply)}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)})

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        question = await self.read(request, EmbeddingQuestion)
        if self.embedder is None:
            raise HTTPException(
                404,
                "no embedding model is served: start with --embeddings and a sentence-transformers folder",
            )
        texts = [question.input] if isinstance(question.input, str) else question.input
        gone = threading.Event()
        watcher = asyncio.create_task(_set_when_gone(request, gone))
        try:
            async with self.turn:
                if gone.is_set():
                    raise ClientDisconnect
                vectors = await anyio.to_thread.run_sync(self.embedder.encode, texts)
                tokens = await anyio.to_thread.run_sync(_count_tokens, self.embedder, texts)
        finally:
            watcher.cancel()
        return JSONResponse(
            {
                "object": "list",
                "model": self.embedder_name,
                "data": [
                    {
                        "object": "embedding",
                        "index": index,
                        "embedding": vector.tolist()
                        if question.encoding_format == "float"
                        else base64.b64encode(vector.astype("<f4").tobytes()).decode(),
                    }
                    for index, vector in enumerate(vectors)
                ],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        self.check_key(request)
        names = [self.name, *([self.embedder_name] if self.embedder else [])]
        data = [{"id": name, "object": "model", "created": self.started, "owned_by": "course"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def health(self, request: Request) -> Response:
        """`GET /health`: needs no key and no turn."""
        return JSONResponse({"status": "ok", "model": self.name, "busy": self.turn.locked()})


async def _set_when_gone(request: Request, cancel: threading.Event) -> None:
    """After the body, the next message of a client is that it has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancel.set()


async def _last(pieces: AsyncIterator[str | Reply]) -> Reply:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Reply):
                return piece
    raise AssertionError("a stream ends with its reply")


async def _events(pieces: AsyncIterator[str | Reply], head: dict[str, Any], with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events, as the OpenAI API streams an answer."""

    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if not isinstance(piece, Reply):
                    yield event({"content": piece})
                    continue
                if isinstance(piece.answer, dict):
                    yield event({"content": _content(piece)})
                yield event({}, piece.finish)
                if with_usage:
                    yield _event({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(piece)})
    except ClientDisconnect:
        return
    except Exception as error:
        # The status line is long gone; the official client raises what stands under "error".
        log.exception("an answer failed")
        yield _event(_problem(500, f"the model failed: {error!s:.300}"))
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _content(reply: Reply) -> str:
    return reply.answer if isinstance(reply.answer, str) else json.dumps(reply.answer, ensure_ascii=False)


def _count_tokens(embedder: Any, texts: list[str]) -> int:
    features = getattr(embedder, "preprocess", embedder.tokenize)(texts)  # renamed in sentence-transformers 6
    # A static model has no padding, and so no mask.
    return int(features["attention_mask"].sum()) if "attention_mask" in features else len(features["input_ids"])


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.answer_tokens,
        "total_tokens": reply.prompt_tokens + reply.answer_tokens,
    }


def _problem(status: int, message: str, chinese: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "message_zh": chinese, "type": kind, "code": status}}


def _error(status: int, message: str, chinese: str | None = None) -> JSONResponse:
    return JSONResponse(_problem(status, message, chinese), status_code=status)


# --- from a notebook


def start(service: Service) -> tuple[str, Callable[[], None]]:
    """Serve on a free port of this machine, in a thread: the address, and a function that stops it."""
    server = uvicorn.Server(uvicorn.Config(service.app(), log_level="error", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="serve", daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def stop() -> None:
        server.should_exit = True
        thread.join()

    return f"http://127.0.0.1:{listener.getsockname()[1]}", stop


# --- the command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course_utils.serve", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a published ChatGLM folder, or a converted one")
    parser.add_argument("--trained", type=Path, metavar="FOLDER", help="what a run of course_utils.finetune saved")
    parser.add_argument("--embeddings", type=Path, metavar="FOLDER", help="a sentence-transformers model")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=_whole_number(0, 65535), default=8000, help="0: any that is free")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantize", help="int8, int4, bnb-int8 or bnb-nf4: less memory")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("COURSE_API_KEY"),
        metavar="KEY",
        help="ask clients for this key; better in the variable COURSE_API_KEY, as others see a command line",
    )
    parser.add_argument("--max-body", type=_whole_number(1), default=Service.max_body, help="bytes of a request")
    parser.add_argument("--max-tokens", type=_whole_number(1), default=Service.max_tokens, help="tokens of an answer")
    args = parser.parse_args()

    try:
        _check_port(args.host, args.port)  # first: the model takes a minute
        service = _load(args)
    except CourseError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print(Text("Interrupted before the model was loaded.", "模型尚未加载完就被中断。"), file=sys.stderr)
        raise SystemExit(130) from None
    if args.host not in ("127.0.0.1", "localhost", "::1") and not service.api_key:
        print(
            Text(
                f"Anyone who reaches {args.host}:{args.port} can use this model: set --api-key.",
                f"任何能访问 {args.host}:{args.port} 的人都可以使用这个模型：请设置 --api-key。",
            )
        )
    uvicorn.run(service.app(), host=args.host, port=args.port)


def _load(args: argparse.Namespace) -> Service:
    from course_utils.chatglm import load_chatglm, load_tokenizer

    tokenizer = load_tokenizer(args.folder)  # first, because it fails at once
    model = load_chatglm(args.folder, dtype=args.dtype, device=args.device, quantize=args.quantize)
    if args.trained:
        from course_utils.finetune import load_trained

        model = load_trained(model, args.trained)
    service = Service(
        model,
        tokenizer,
        name=args.folder.resolve().name,
        api_key=args.api_key or None,
        max_body=args.max_body,
        max_tokens=args.max_tokens,
    )
    if args.embeddings:
        service.embedder, service.embedder_name = _load_embedder(args.embeddings)
    return service


def _whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """A type for `argparse`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if low <= number and (high is None or number <= high):
            return number
        raise argparse.ArgumentTypeError(f"give a whole number from {low} {f'to {high}' if high else 'up'}")

    return whole_number


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        cause = error.strerror.partition(" (")[0]  # behind it the address stands once more
        raise CourseError(
            f"nothing can listen on {host}:{port} ({cause}): choose another --port or --host, or end what uses it",
            f"无法监听 {host}:{port}（{cause}）：请换一个 --port 或 --host，或结束占用它的程序",
        ) from None


def _load_embedder(folder: Path) -> tuple[Any, str]:
    if not (folder / "modules.json").is_file():
        raise CourseError(
            f"{folder} is not a sentence-transformers model (no modules.json): download one there first",
            f"{folder} 不是 sentence-transformers 模型（缺少 modules.json）：请先下载到该处",
        )
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), local_files_only=True), folder.resolve().name


if __name__ == "__main__":
    main()
