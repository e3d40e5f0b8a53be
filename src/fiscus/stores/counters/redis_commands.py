"""Sends commands to Redis so that none is ever run twice, and the caller waits for none in vain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from fiscus.ratelimits.port import CountersUnavailable
from fiscus.stores.counters.redis_urls import Connection, Pool, Servers


class Command(NamedTuple):
    """What is sent to the server that holds `key`."""

    key: str
    words: tuple[str | bytes | int, ...]
    with_text: tuple[str | bytes | int, ...] | None = None
    """Of a script called by its name: the same call with the script itself."""


class _Sent(NamedTuple):
    pool: Pool
    words: tuple[str | bytes | int, ...]
    asking: bool = False


def ask_all(servers: Servers, commands: Sequence[Command]) -> list[Any]:
    """The answers to commands; each is sent before any answer is waited for.

    A command that a server says it did not run, because it does not know the script or no longer
    holds the key, is sent once more. One whose answer is missing may have run and is not. Raises
    `CountersUnavailable`.
    """
    try:
        answers = _exchange([_Sent(servers.pool_of(one.key), one.words) for one in commands])
        not_run = [
            (place, answer)
            for place, answer in enumerate(answers)
            if isinstance(answer, ResponseError)
        ]
        if not_run:
            if any(isinstance(answer, MovedError) for _, answer in not_run):
                servers.have_moved()
            again = [_once_more(servers, commands[place], answer) for place, answer in not_run]
            for (place, _), answer in zip(not_run, _exchange(again), strict=True):
                if isinstance(answer, ResponseError):
                    raise answer
                answers[place] = answer
    except (RedisError, RedisClusterException, OSError) as error:
        servers.have_moved()
        raise CountersUnavailable(f"{type(error).__name__}: {error}") from error
    return answers


def _once_more(servers: Servers, command: Command, answer: ResponseError) -> _Sent:
    if isinstance(answer, NoScriptError) and command.with_text is not None:
        return _Sent(servers.pool_of(command.key), command.with_text)
    # a script that a new holder of the key does not know yet must not need a third time
    words = command.with_text or command.words
    if isinstance(answer, MovedError):
        return _Sent(servers.pool_of(command.key), words)
    if isinstance(answer, AskError):
        host, port = str(answer.host), answer.port  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return _Sent(servers.pool_at(host, port), words, asking=True)
    raise answer


def _exchange(sent: Sequence[_Sent]) -> list[Any]:
    """Answers in the order of what is sent; errors that servers answer are among them."""
    batches: dict[Pool, list[int]] = {}
    for place, one in enumerate(sent):
        batches.setdefault(one.pool, []).append(place)
    taken: list[tuple[Pool, Connection]] = []
    answers: list[Any] = [None] * len(sent)
    try:
        for pool in batches:
            taken.append((pool, pool.get_connection()))  # noqa: PERF401 - those taken before an error go back
        for (_, connection), places in zip(taken, batches.values(), strict=True):
            for place in places:
                if sent[place].asking:
                    connection.send_command("ASKING")
                connection.send_command(*sent[place].words)
        for (_, connection), places in zip(taken, batches.values(), strict=True):
            for place in places:
                if sent[place].asking:
                    connection.read_response()
                answers[place] = _answer(connection)
    except BaseException:
        # what is still on its way must not be taken for the answer to another command
        for _, connection in taken:
            connection.disconnect()
        raise
    finally:
        for pool, connection in taken:
            pool.release(connection)
    return answers


def _answer(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
