"""Sends commands to Redis so that none is ever run twice, and the caller waits for none in vain.

What is sent, what an answer means and what is sent once more is a `conversation`, which knows no
sockets. `ask_all` has one from a thread, `redis_on_loop` from an event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple

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

Arguments = tuple[str | bytes | int, ...]

TROUBLE: Final = (RedisError, RedisClusterException, OSError)
"""What redis-py raises when a server cannot be asked or does not answer."""


class NotSent(Exception):
    """The servers to ask cannot be reached: nothing was sent to any of them."""


class Command(NamedTuple):
    """What is sent to the server that holds `key`."""

    key: str
    arguments: Arguments
    with_text: Arguments | None = None
    """Of a script called by its name: the same call with the script itself."""


class Sent(NamedTuple):
    """A command for the server that holds `key`, or for another one that it pointed to."""

    key: str
    arguments: Arguments
    pointed_to: tuple[str, int] | None = None
    """The server that will hold the key; it has to be told `ASKING` before."""

    def pool(self, servers: Servers) -> Pool:
        """Connections to that server. Raises redis-py's errors."""
        if self.pointed_to is None:
            return servers.pool_of(self.key)
        return servers.pool_at(*self.pointed_to)


_Taken = tuple[Pool, Connection, list[int]]
"""A connection, the pool that it is of, and the places of what is sent there."""

Conversation = Generator[list[Sent], list[Any], list[Any]]
"""Yields what is to be sent at once, is sent the answers, and returns those to the commands.

Errors that servers answer are among the answers. Another error is thrown in: an answer is missing.
"""


def conversation(servers: Servers, commands: Sequence[Command]) -> Conversation:
    """How commands are asked, each before any answer is waited for.

    A command that a server says it did not run, because it does not know the script or no longer
    holds the key, is sent once more. One whose answer is missing may have run and is not. Raises
    `CountersUnavailable`.
    """
    some_ran = False
    try:
        answers = yield [Sent(one.key, one.arguments) for one in commands]
        not_run = [
            (place, answer)
            for place, answer in enumerate(answers)
            if isinstance(answer, ResponseError)
        ]
        if not_run:
            some_ran = len(not_run) < len(commands)
            if any(isinstance(answer, MovedError) for _, answer in not_run):
                servers.have_moved()
            again = yield [_once_more(commands[place], answer) for place, answer in not_run]
            some_ran = some_ran or any(not isinstance(one, ResponseError) for one in again)
            for (place, _), answer in zip(not_run, again, strict=True):
                if isinstance(answer, ResponseError):
                    raise answer
                answers[place] = answer
    except (NotSent, *TROUBLE) as error:
        servers.have_moved()
        trouble = error.__cause__ if isinstance(error, NotSent) else error
        raise CountersUnavailable(
            f"{type(trouble).__name__}: {trouble}",
            nothing_done=isinstance(error, NotSent | ResponseError) and not some_ran,
        ) from trouble
    return answers


def _once_more(command: Command, answer: ResponseError) -> Sent:
    # a script that a new holder of the key does not know yet must not need a third time
    arguments = command.with_text or command.arguments
    if isinstance(answer, AskError):
        host, port = str(answer.host), int(answer.port)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return Sent(command.key, arguments, (host, port))
    if isinstance(answer, MovedError) or (
        isinstance(answer, NoScriptError) and command.with_text is not None
    ):
        return Sent(command.key, arguments)
    raise answer


def ask_all(servers: Servers, commands: Sequence[Command]) -> list[Any]:
    """The answers to commands; waits for them. Raises `CountersUnavailable`."""
    talk = conversation(servers, commands)
    sent = next(talk)
    try:
        while True:
            try:
                answers = _exchange(servers, sent)
            except (NotSent, *TROUBLE) as error:
                sent = talk.throw(error)
            else:
                sent = talk.send(answers)
    except StopIteration as end:
        return end.value


def _exchange(servers: Servers, sent: Sequence[Sent]) -> list[Any]:
    """Answers in the order of what is sent; errors that servers answer are among them.

    Raises `NotSent`, and redis-py's errors.
    """
    taken = _connections(servers, sent)
    answers: list[Any] = [None] * len(sent)
    try:
        for _, connection, places in taken:
            for place in places:
                if sent[place].pointed_to:
                    connection.send_command("ASKING")
                connection.send_command(*sent[place].arguments)
        for _, connection, places in taken:
            for place in places:
                if sent[place].pointed_to:
                    connection.read_response()
                answers[place] = _answer(connection)
    except BaseException:
        # what is still on its way must not be taken for the answer to another command
        for _, connection, _ in taken:
            connection.disconnect()
        raise
    finally:
        _give_back(taken)
    return answers


def _connections(servers: Servers, sent: Sequence[Sent]) -> list[_Taken]:
    """Connections to the servers of what is sent. Raises `NotSent`."""
    taken: list[_Taken] = []
    try:
        batches: dict[Pool, list[int]] = {}
        for place, one in enumerate(sent):
            batches.setdefault(one.pool(servers), []).append(place)
        for pool, places in batches.items():
            taken.append((pool, pool.get_connection(), places))
    except BaseException as error:
        _give_back(taken)
        if isinstance(error, TROUBLE):
            raise NotSent from error
        raise
    return taken


def _give_back(taken: Sequence[_Taken]) -> None:
    for pool, connection, _ in taken:
        pool.release(connection)


def _answer(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
