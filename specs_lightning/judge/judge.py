"""The judge: questions to an OpenAI-compatible endpoint, many at once, none paid for twice, within a budget.

Every fault of the endpoint ends in a retry or in an unscored completion with its cause, never in a score. One file of
more than 400 lines, since budget, retries and pauses act on each other.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from specs_lightning.errors import RewardError, SpecsError, check_positive
from specs_lightning.judge.cache import ReplyCache
from specs_lightning.judge.questions import Question, messages, read_verdict, response_schema
from specs_lightning.records.judge_usage import JUDGE, JudgeUsage, Usage
from specs_lightning.scoring.math_verify import Verdict
from specs_lightning.system.addresses import is_loopback

log = logging.getLogger(__name__)

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
"""Between two attempts. A server that asks for a longer wait is not waited for."""
DOWN_S = 60.0
"""For so long nothing more is asked of an endpoint that refused, or that failed while no other request succeeded."""
OPENAI = "https://api.openai.com/v1"
_TRANSIENT = {408, 409, 425, 429}


class JudgeError(SpecsError, RuntimeError):
    """A judge that cannot be asked; the message says what to change."""


class BudgetSpent(RewardError):
    """The judge's budget is spent. What was judged is in its cache: with a larger budget, the run goes on from it."""


@dataclass(frozen=True)
class JudgeSettings:
    """A language model that judges what rules cannot, behind any OpenAI-compatible endpoint."""

    model: str
    """Its name at the endpoint, such as `gpt-4o`."""
    base_url: str | None = None
    """The endpoint, such as `http://localhost:8000/v1` for vLLM; OpenAI's if not given."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the key, which is shown to `base_url` and nowhere else. An endpoint of one's own
    may need none."""
    plain_http: bool = False
    """Show the key over `http://` to another machine, where whoever is in between can read it."""
    concurrency: int = 16
    """Requests at once, at most."""
    timeout_seconds: float = 60.0
    """For one reply, from first to last byte."""
    retries: int = 5
    """After a rate limit, a server's error, a time-out or a broken reply; each wait is twice as long as the last."""
    temperature: float | None = 0.0
    """`None` leaves it to the endpoint, for models that take no other than their own."""
    max_tokens: int = 512
    """Of one reply."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """What holds the reply to JSON: a schema, JSON mode, or the request alone, for endpoints that know neither."""
    request: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request, such as `{reasoning_effort: low}`."""
    instructions: str | None = None
    """A folder whose `answer.md` and `consistency.md` replace the package's instructions."""
    cache: str | None = "runs/judge.sqlite"
    """The file that keeps replies over all runs; `null` keeps none."""
    max_requests: int | None = None
    """The budget of one command in requests, attempts counted singly; it stops when that is spent."""
    max_total_tokens: int | None = None
    """The same in tokens, of requests and replies. Requests that are under way then are still paid for."""

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that verdicts depend on: not how fast, how dearly or how patiently it is asked."""
        names = ("model", "base_url", "temperature", "max_tokens", "structured", "request", "instructions")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        numbers = ("concurrency", "timeout_seconds", "max_tokens", "max_requests", "max_total_tokens")
        check_positive(**{f"judge.{name}": getattr(self, name) for name in numbers})
        if not self.model:
            raise ValueError("judge.model is empty: name the model that the endpoint serves")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"judge.temperature must be 0 or a positive number, not {self.temperature}")
        if self.retries < 0:
            raise ValueError(f"judge.retries must not be negative, but is {self.retries}")
        if self.instructions is not None and not Path(self.instructions).is_dir():
            raise ValueError(f"judge.instructions: {self.instructions} is no folder")
        if self.base_url is not None:
            url = httpx.URL(self.base_url)
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError(f"judge.base_url {self.base_url!r} is no address: write http://host:port/v1")
            if url.userinfo or url.query:
                raise ValueError(
                    f"judge.base_url of {url.host} holds a password or a query: put the key into {self.api_key_env}"
                )


class _NoReply(Exception):
    """No usable reply: whether to ask `again`, and after how many seconds at least; whether all would be `refused`."""

    def __init__(self, cause: str, again: float | None = None, refused: bool = False) -> None:
        super().__init__(cause)
        self.again, self.refused = again, refused


class Judge:
    """Asks questions and reads the verdicts. Usable from any thread; equal questions are asked once.

    Raises:
        JudgeError: OpenAI's endpoint without a key, or a key that others could read on its way.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.usage = Usage()
        self._instructions = None if settings.instructions is None else Path(settings.instructions)
        self._key = os.environ.get(settings.api_key_env, "")
        if not self._key and settings.base_url is None:
            raise JudgeError(
                f"the judge {settings.model} needs a key: set the environment variable {settings.api_key_env}, or "
                "judge.base_url for an endpoint of your own"
            )
        url = httpx.URL(settings.base_url or OPENAI)
        if self._key and url.scheme == "http" and not is_loopback(url.host) and not settings.plain_http:
            raise JudgeError(
                f"the key in {settings.api_key_env} could be read on its way to {url.host}: give judge.base_url with "
                "https://, unset the key if the endpoint needs none, or allow it by judge.plain_http true"
            )
        self._starting = threading.Lock()
        self._running: _Loop | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Threads, connections and the key stay behind: a copy, or another process, has its own
        return Judge, (self.settings,)

    def check(self) -> None:
        """Ask the endpoint for its models, which costs nothing.

        Raises:
            JudgeError: it cannot be reached, refuses the key, or does not know the model.
        """
        self._loop().run(self._check())

    def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """A verdict on each question; without a usable reply it is `None` and says why.

        Raises:
            BudgetSpent: there were more questions than the budget allows.
        """
        unique = list(dict.fromkeys(questions))
        if not unique:
            return []
        verdicts = dict(zip(unique, self._loop().run(self._ask_all(unique)), strict=True))
        return [verdicts[question] for question in questions]

    def close(self) -> None:
        """End the connections. The judge can be asked again, with new ones."""
        with self._starting:
            if self._running is not None and self._running.process_id == os.getpid():
                self._running.close()
            self._running = None

    def _loop(self) -> _Loop:
        with self._starting:
            if self._running is None or self._running.process_id != os.getpid():  # the latter after a fork
                self._running = _Loop(self.settings, self._key)
            return self._running

    # All that follows runs in the loop's thread.

    async def _check(self) -> None:
        loop = self._loop()
        url = loop.client.base_url
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                models = [model.id async for model in await loop.client.models.list()]
        except Exception as error:  # whatever a server that is none makes the client raise
            failure = self._failure(error)
            if getattr(error, "status_code", None) in (404, 405):
                return  # an endpoint without a list of models
            raise JudgeError(f"{failure} (judge.model {self.settings.model} at {url})") from error
        if self.settings.model not in models:
            known = ", ".join(models[:10]) or "none"
            raise JudgeError(f"the judge {self.settings.model} is not at {url}; there are: {known}. Set judge.model")

    async def _ask_all(self, questions: list[Question]) -> list[Verdict]:
        verdicts = await asyncio.gather(*map(self._ask_one, questions), return_exceptions=True)
        for verdict in verdicts:  # those that were under way are finished, and kept, by now
            if isinstance(verdict, BaseException):
                raise verdict
        return [verdict for verdict in verdicts if isinstance(verdict, Verdict)]

    async def _ask_one(self, question: Question) -> Verdict:
        verdict = await self._verdict(question)
        self.usage.questions += 1
        self.usage.unscored += verdict.correct is None
        return verdict

    async def _verdict(self, question: Question) -> Verdict:
        if question.length > question.max_characters:
            return Verdict(None, f"too long for the judge: {question.length} characters of {question.max_characters}")
        loop = self._loop()
        request = self._request(question)
        key = hashlib.sha256(json.dumps([str(loop.client.base_url), request], sort_keys=True).encode()).hexdigest()
        try:
            if (reply := loop.cache.get(key)) is not None:
                self.usage.cache_hits += 1
            elif (asked := loop.under_way.get(key)) is not None:  # by another thread
                self.usage.cache_hits += 1
                reply = await asyncio.shield(asked)
            else:
                loop.under_way[key] = task = asyncio.ensure_future(self._pay(key, request))
                try:
                    reply = await task
                finally:
                    del loop.under_way[key]
        except _NoReply as failure:
            return Verdict(None, str(failure))
        if reply["refusal"] or reply["finish_reason"] == "content_filter":
            return Verdict(None, f"judge refused to answer: {(reply['refusal'] or 'content filter')[:80]!r}")
        if reply["finish_reason"] == "length":
            return Verdict(None, f"judge's reply cut off: longer than judge.max_tokens ({self.settings.max_tokens})")
        return read_verdict(reply["content"] or "", question)

    def _request(self, question: Question) -> dict[str, Any]:
        """The fields of a request: all that its reply depends on, save the endpoint."""
        settings = self.settings
        formats: dict[str, dict[str, Any]] = {
            "json_schema": {"type": "json_schema", "json_schema": response_schema(question)},
            "json_object": {"type": "json_object"},
        }
        asked = messages(question, self._instructions)
        request: dict[str, Any] = {
            "model": settings.model,
            "messages": asked,
            "max_completion_tokens": settings.max_tokens,
        }
        if settings.temperature is not None:
            request["temperature"] = settings.temperature
        if settings.structured in formats:
            request["response_format"] = formats[settings.structured]
        return request | settings.request

    async def _pay(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request that the cache does not hold, attempt after attempt."""
        loop = self._loop()
        async with loop.slots:
            began = time.monotonic()
            for attempt in range(self.settings.retries + 1):
                if began < loop.down_until:
                    raise _NoReply(loop.down_cause)
                try:
                    reply = await self._attempt(request)
                except _NoReply as failure:
                    last = attempt == self.settings.retries
                    if failure.refused or (failure.again is not None and last and loop.last_success < began):
                        loop.down_until, loop.down_cause = time.monotonic() + DOWN_S, str(failure)
                        log.warning("nothing is asked of the judge for %g s: %s", DOWN_S, failure)
                    if failure.again is None or last:
                        raise
                    backoff = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.75, 1)
                    await asyncio.sleep(max(failure.again, backoff))
                else:
                    loop.last_success, loop.down_until = time.monotonic(), 0.0
                    loop.cache.put(key, request, reply)
                    return reply
        raise AssertionError("an attempt replies or raises")

    async def _attempt(self, request: dict[str, Any]) -> dict[str, Any]:
        self._check_budget()
        self.usage.requests += 1
        try:
            # A limit on the whole: the client's own starts anew with each byte that trickles in.
            async with asyncio.timeout(self.settings.timeout_seconds):
                body = await self._loop().create(request)
        except Exception as error:  # whatever a server that is none makes the client raise
            raise self._failure(error) from error
        counts = usage if isinstance(usage := body.get("usage"), dict) else {}
        self.usage.prompt_tokens += _count(counts.get("prompt_tokens"))
        self.usage.completion_tokens += _count(counts.get("completion_tokens"))
        return _read_reply(body)

    def _check_budget(self) -> None:
        for name, used, limit in (
            ("requests", self.usage.requests, self.settings.max_requests),
            ("total_tokens", self.usage.tokens, self.settings.max_total_tokens),
        ):
            if limit is not None and used >= limit:
                raise BudgetSpent(
                    f"the judge's budget of {limit} {name.replace('_', ' ')} is spent: raise judge.max_{name} and give "
                    "the same command again; verdicts that were paid for are kept in "
                    f"{self.settings.cache or 'no file: judge.cache is null'}"
                )

    def _failure(self, error: Exception) -> _NoReply:
        """What went wrong, without the key, which servers like to quote."""
        failure = _describe(error, self.settings)
        if self._key:
            failure.args = (str(failure).replace(self._key, "[key]"),)
        return failure


class _Loop:
    """An event loop in a thread of its own, with what belongs to it: the client, the cache, and the state of both."""

    def __init__(self, settings: JudgeSettings, key: str) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self.process_id = os.getpid()
        self.client = AsyncOpenAI(
            api_key=key or "none",
            base_url=settings.base_url or OPENAI,  # whatever OPENAI_BASE_URL says: the key is for this one
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),  # likewise
            max_retries=0,  # each attempt counts, and is counted here
            timeout=settings.timeout_seconds,
        )
        self.cache = ReplyCache(None if settings.cache is None else Path(settings.cache))
        self.slots = asyncio.Semaphore(settings.concurrency)
        self.under_way: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.last_success = self.down_until = 0.0
        self.down_cause = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # by Ctrl-C: nothing more is paid for
            raise

    async def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """The body of the reply: read by ourselves, since the client takes anything for a completion."""
        known = {"model", "messages", "max_completion_tokens", "temperature", "response_format"}
        further = {name: value for name, value in request.items() if name not in known}
        own = {name: value for name, value in request.items() if name in known}
        response = await self.client.chat.completions.with_raw_response.create(**own, extra_body=further or None)
        try:
            body = json.loads(response.http_response.content)
        except (ValueError, RecursionError) as error:
            raise _NoReply(f"judge's reply is not JSON: {_start(response.http_response.text)}", again=0) from error
        if not isinstance(body, dict):
            raise _NoReply(f"judge's reply is no chat completion: {_start(json.dumps(body))}", again=0)
        return body

    def close(self) -> None:
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.cache.close()


def _read_reply(body: dict[str, Any]) -> dict[str, Any]:
    """What matters of a chat completion."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _NoReply(f"judge's reply has no choices: {_start(json.dumps(body))}", again=0)
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        raise _NoReply(f"judge's reply has no message: {_start(json.dumps(body))}", again=0)
    refusal = message.get("refusal")
    return {
        "content": message.get("content"),
        "refusal": refusal if isinstance(refusal, str) else None,
        "finish_reason": choices[0].get("finish_reason"),
        "model": body.get("model"),
    }


def _describe(error: Exception, settings: JudgeSettings) -> _NoReply:
    import openai

    if isinstance(error, _NoReply):
        return error
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return _NoReply(f"judge timed out: no reply within {settings.timeout_seconds:g} s", again=0)
    if isinstance(error, openai.APIStatusError):
        return _refused(error, settings)
    if isinstance(error, openai.APIConnectionError):
        reason = str(error.__cause__ or error) or type(error.__cause__).__name__
        return _NoReply(f"judge unreachable: {_start(reason)}", again=0)
    return _NoReply(f"judge failed: {type(error).__name__}: {_start(str(error))}", again=0)


def _refused(error: Any, settings: JudgeSettings) -> _NoReply:
    status, body = error.status_code, error.body
    message = body.get("message") if isinstance(body, dict) else None
    said = f"judge answered {status}: {_start(str(message or error.response.text))}"
    if 300 <= status < 400:
        place = _start(error.response.headers.get("location", ""))
        return _NoReply(f"{said} (the key does not go on to {place}: judge.base_url must be the last)", refused=True)
    if status in (401, 403):
        return _NoReply(f"{said} (the key is taken from {settings.api_key_env})", refused=True)
    if status == 404:
        return _NoReply(f"{said} (check judge.base_url, with its /v1, and judge.model)", refused=True)
    if getattr(error, "code", None) == "insufficient_quota":
        return _NoReply(said, refused=True)
    if status in _TRANSIENT or status >= 500:
        wait = _retry_after(error.response.headers)
        if wait > LONGEST_WAIT_S:
            return _NoReply(f"{said} (it asks for a wait of {wait:g} s)", refused=True)
        return _NoReply(said, again=wait)
    return _NoReply(said)


def _retry_after(headers: Any) -> float:
    """The seconds that a server asks to wait, in either of the header's two forms; 0 if it asks for none.

    Until a moment by its own clock, where it says what that shows.
    """
    value = headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    at, now = _moment(value), _moment(headers.get("date", ""))
    if at is None:
        return 0.0
    return max(0.0, at - (time.time() if now is None else now))


def _moment(date: str) -> float | None:
    """Of a date as HTTP writes it."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _start(text: str) -> str:
    return repr(" ".join(text.split())[:120])


def record_usage(judge: Judge, folder: Path) -> None:
    """Add a line to `judge.jsonl`: which judge it was and what it cost. Processes and resumed runs add their own."""
    JUDGE.append(
        folder, [JudgeUsage(**asdict(judge.usage), model=judge.settings.model, base_url=judge.settings.base_url)]
    )
