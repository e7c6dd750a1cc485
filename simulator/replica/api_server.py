"""The API server speaks the OpenAI protocol and passes requests to the engine core."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from setproctitle import setproctitle

from simulator.replica.config import ReplicaConfig, parse_arguments
from simulator.replica.disturbances import check_changes, compute_for
from simulator.replica.vllm.v1.engine import EngineCoreRequest
from simulator.replica.vllm.v1.engine.async_llm import AsyncLLM
from simulator.replica.vllm.v1.engine.core_client import EngineDeadError

_TOKEN_TEXT = "tok "
_BYTES_PER_TOKEN = 4
_DEFAULT_MAX_TOKENS = 16
_TOKENIZER_SLICE_SECONDS = 0.05
_LARGEST_BODY_BYTES = 16 * 1024 * 1024


class BadRequestError(Exception):
    """The client asked for something that cannot be answered; the message says what to change."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def parse_completion_request(
    body: object, config: ReplicaConfig, request_id: str
) -> EngineCoreRequest:
    """Check a body of /v1/completions and turn it into a request to the engine core."""
    if not isinstance(body, dict):
        raise BadRequestError("the body is not a JSON object: send one with model and prompt")
    model = body.get("model", config.model_name)
    if model != config.model_name:
        raise BadRequestError(
            f"the model {model!r} does not exist: ask for {config.model_name!r}", status=404
        )
    if body.get("n", 1) != 1:
        raise BadRequestError("n is not 1: send one request per completion")
    prompt_token_ids = _parse_prompt(body.get("prompt"))
    max_tokens = body.get("max_tokens", _DEFAULT_MAX_TOKENS)
    if max_tokens is None:
        max_tokens = _DEFAULT_MAX_TOKENS
    if type(max_tokens) is not int or max_tokens < 1:
        raise BadRequestError(f"max_tokens is {max_tokens!r}: give an integer of 1 or more")
    total_tokens = len(prompt_token_ids) + max_tokens
    if total_tokens > config.max_model_len_tokens:
        raise BadRequestError(
            f"the prompt of {len(prompt_token_ids)} tokens and max_tokens of {max_tokens} make "
            f"{total_tokens}, more than the model length of {config.max_model_len_tokens}: "
            "shorten the prompt, lower max_tokens, or start the replica with a larger "
            "--max-model-len"
        )
    return EngineCoreRequest(request_id, prompt_token_ids, max_tokens)


def _parse_prompt(prompt: object) -> list[int]:
    if isinstance(prompt, str):
        # No tokeniser here: a token is four bytes, and only the count matters.
        num_tokens = max(1, -(-len(prompt.encode()) // _BYTES_PER_TOKEN))
        return list(range(num_tokens))
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise BadRequestError(
        "the prompt is neither a string nor a list of token ids with at least one of them: "
        "send one prompt per request in one of these forms"
    )


class ApiServer:
    """The HTTP handlers of one replica."""

    def __init__(self, config: ReplicaConfig, engine: AsyncLLM) -> None:
        self._config = config
        self._engine = engine
        self._numbers = itertools.count()
        self._started_at_epoch_seconds = int(time.time())
        self._tokenizer_seconds = 0.0
        self._tokenizing = asyncio.Lock()

    def build_app(self) -> web.Application:
        """Tie the handlers to their paths."""
        app = web.Application(
            client_max_size=_LARGEST_BODY_BYTES, middlewares=[_errors_as_openai_json]
        )
        app.router.add_post("/v1/completions", self.create_completion)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/replica/clock", self.get_clock)
        app.router.add_post("/replica/clock", self.set_clock)
        app.router.add_get("/replica/disturbances", self.get_disturbances)
        app.router.add_post("/replica/disturbances", self.change_disturbances)
        return app

    async def create_completion(self, http_request: web.Request) -> web.StreamResponse:
        """Generate text for one prompt, at once or token by token."""
        body = await _read_json(http_request)
        await self._tokenize()
        request_id = f"cmpl-{next(self._numbers)}-{os.urandom(4).hex()}"
        request = parse_completion_request(body, self._config, request_id)
        if body.get("stream"):
            include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
            )
            # A client that has left is nothing to report: its request was aborted.
            with contextlib.suppress(ConnectionResetError):
                await self._stream(http_request, response, request, include_usage=include_usage)
            return response
        num_tokens = 0
        finish_reason = None
        async with contextlib.aclosing(self._engine.generate(request)) as outputs:
            async for output in outputs:
                num_tokens += output.num_new_tokens
                finish_reason = output.finish_reason
        answer = self._envelope(request_id)
        answer["choices"] = [_choice(_TOKEN_TEXT * num_tokens, finish_reason)]
        answer["usage"] = _usage(request, num_tokens)
        return web.json_response(answer)

    async def _tokenize(self) -> None:
        """Compute for as long as the knob says, one request after the other."""
        async with self._tokenizing:
            computed_seconds = 0.0
            while (left_seconds := self._tokenizer_seconds - computed_seconds) > 0:
                slice_seconds = min(left_seconds, _TOKENIZER_SLICE_SECONDS)
                compute_for(slice_seconds)
                computed_seconds += slice_seconds
                # Whoever turns the knob back has to be heard.
                await asyncio.sleep(0)

    async def _stream(
        self,
        http_request: web.Request,
        response: web.StreamResponse,
        request: EngineCoreRequest,
        *,
        include_usage: bool,
    ) -> None:
        envelope = self._envelope(request.request_id)
        # One token, not yet the last: nearly every chunk, so it is written once.
        envelope["choices"] = [_choice(_TOKEN_TEXT, None)]
        usual_chunk = _event(envelope)
        num_tokens = 0
        async with contextlib.aclosing(self._engine.generate(request)) as outputs:
            await response.prepare(http_request)
            async for output in outputs:
                num_tokens += output.num_new_tokens
                if output.finish_reason is None and output.num_new_tokens == 1:
                    await response.write(usual_chunk)
                    continue
                envelope["choices"] = [
                    _choice(_TOKEN_TEXT * output.num_new_tokens, output.finish_reason)
                ]
                await response.write(_event(envelope))
        if include_usage:
            envelope["choices"] = []
            envelope["usage"] = _usage(request, num_tokens)
            await response.write(_event(envelope))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()

    def _envelope(self, request_id: str) -> dict[str, Any]:
        return {
            "id": request_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._config.model_name,
        }

    async def list_models(self, http_request: web.Request) -> web.Response:
        """Name the one model."""
        del http_request
        model = {
            "id": self._config.model_name,
            "object": "model",
            "created": self._started_at_epoch_seconds,
            "owned_by": "simulator",
            "max_model_len": self._config.max_model_len_tokens,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def health(self, http_request: web.Request) -> web.Response:
        """Answer as long as the engine core lives."""
        del http_request
        return web.Response(status=503 if self._engine.died.is_set() else 200)

    async def metrics(self, http_request: web.Request) -> web.Response:
        """Write the metrics in Prometheus text format."""
        del http_request
        return web.Response(
            body=self._engine.logger_manager.render(),
            headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"},
        )

    async def get_clock(self, http_request: web.Request) -> web.Response:
        """Say at which fraction of its full speed the model runs."""
        del http_request
        return web.json_response({"ratio": await self._engine.get_clock_ratio()})

    async def set_clock(self, http_request: web.Request) -> web.Response:
        """Slow the model to a fraction of its full speed, from the next iteration on."""
        body = await _read_json(http_request)
        ratio = body.get("ratio")
        if (
            not isinstance(ratio, int | float)
            or isinstance(ratio, bool)
            or not 0.05 <= ratio <= 1.0
        ):
            raise BadRequestError(f"ratio is {ratio!r}: give a number from 0.05 to 1.0")
        return web.json_response({"ratio": await self._engine.set_clock_ratio(float(ratio))})

    async def get_disturbances(self, http_request: web.Request) -> web.Response:
        """Say how far each knob is turned."""
        del http_request
        return web.json_response((await self._engine.get_disturbances()).as_json())

    async def change_disturbances(self, http_request: web.Request) -> web.Response:
        """Turn the knobs that are named, and answer with all of them."""
        try:
            changes = check_changes(await _read_json(http_request))
        except ValueError as err:
            raise BadRequestError(str(err)) from err
        knobs = await self._engine.change_disturbances(changes)
        self._tokenizer_seconds = knobs.tokenizer_ms / 1_000
        return web.json_response(knobs.as_json())


async def _read_json(http_request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await http_request.read())
    except ValueError as err:
        raise BadRequestError(f"the body is not JSON ({err}): send a JSON object") from err
    if not isinstance(body, dict):
        raise BadRequestError("the body is not a JSON object: send one")
    return body


def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _usage(request: EngineCoreRequest, num_tokens: int) -> dict[str, int]:
    num_prompt_tokens = len(request.prompt_token_ids)
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
    }


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _error_response(message: str, kind: str, status: int) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


@web.middleware
async def _errors_as_openai_json(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except BadRequestError as err:
        kind = "NotFoundError" if err.status == 404 else "BadRequestError"
        return _error_response(str(err), kind, err.status)
    except web.HTTPNotFound:
        return _error_response(
            f"there is nothing at {request.path}: try /v1/completions, /v1/models, /health, "
            "/metrics, /replica/clock or /replica/disturbances",
            "NotFoundError",
            404,
        )
    except web.HTTPRequestEntityTooLarge:
        return _error_response(
            f"the body is larger than {_LARGEST_BODY_BYTES} bytes: send a shorter prompt",
            "BadRequestError",
            413,
        )
    except EngineDeadError as err:
        return _error_response(f"{err}: restart the replica", "InternalServerError", 503)
    return response


def _bind(config: ReplicaConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        # Listen now: two sockets may both bind with SO_REUSEADDR, but only one may listen.
        listener.listen(128)
    except OSError as err:
        listener.close()
        if err.errno == errno.EADDRINUSE:
            raise SystemExit(f"port {config.port} is in use: choose another with --port") from err
        raise SystemExit(
            f"cannot listen on {config.host}:{config.port} ({err.strerror}): "
            "choose another address with --host and --port"
        ) from err
    return listener


async def _serve(config: ReplicaConfig, listener: socket.socket) -> str:
    """Serve until a signal, or until the engine core ends; then say why."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    if config.until_stdin_closes:
        _stop_when_stdin_closes(loop, stop)
    engine = AsyncLLM(config)
    waiting_for_stop = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(engine.start())
    runner: web.AppRunner | None = None
    try:
        await asyncio.wait((starting, waiting_for_stop), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return ""
        try:
            ready = starting.result()
        except EngineDeadError as err:
            return f"the engine core did not start: {err}"
        except TimeoutError:
            return "the engine core was not ready in time: start the replica on a quieter machine"
        app = ApiServer(config, engine).build_app()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        port = listener.getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        sys.stdout.write(
            f"serving on http://{host}:{port} (pid {os.getpid()}, "
            f"engine core {ready.core_pid}, worker {ready.worker_pid})\n"
        )
        sys.stdout.flush()
        waiting_for_death = asyncio.create_task(engine.died.wait())
        await asyncio.wait(
            (waiting_for_stop, waiting_for_death), return_when=asyncio.FIRST_COMPLETED
        )
        waiting_for_death.cancel()
        if engine.died.is_set():
            return f"the engine core ended ({engine.death_reason}): restart the replica"
        return ""
    finally:
        starting.cancel()
        waiting_for_stop.cancel()
        await engine.shutdown()
        if runner is not None:
            await runner.cleanup()


def _stop_when_stdin_closes(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), read)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a replica until it is told to stop."""
    config = parse_arguments(arguments)
    if config.truth is not None and not config.truth.parent.is_dir():
        raise SystemExit(
            f"there is no folder {config.truth.parent}: create it, or choose another --truth"
        )
    listener = _bind(config)
    port = listener.getsockname()[1]
    setproctitle(f"vllm serve {config.model_name} --port {port}")
    with listener:
        death_reason = asyncio.run(_serve(config, listener))
    if death_reason:
        sys.stderr.write(f"{death_reason}\n")
        return 1
    return 0
