"""Work in other processes, and a codec of a third party, kept apart from what it is judged by.

The code of such a codec is never run in the process that judges. One process that is forked from here encodes; another
one, forked anew for each batch from a process that has never coded, decodes: it has the records and their side facts,
and nothing that the encoder kept in a table, a field or a module. Records reach it in the reverse of their order, so
that none can lean on what came before it. Words and payloads go through memory that two processes share; what comes
back beside them is lengths and shapes, never a pickled object.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import math
import mmap
import os
import pickle
import select
import signal
import struct
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import index as whole_number
from time import thread_time
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pytest_h2o import errors
from pytest_h2o.codecs.base import Codec, DType, Rope, SideInfo, Stream, Tensor, Words
from pytest_h2o.errors import CodecError, ExecutorError, H2OError, describe_error
from pytest_h2o.inputs.options import CODEC_TIMEOUT_S

Buffer = bytes | memoryview
_Self = TypeVar("_Self")
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_LENGTH = struct.Struct("<Q")
_MOST_FROM_HEAP, _MOST_KEPT = 1 << 25, 1 << 26
_ANSWERS_BYTES = 1 << 20
_ENDED = "its process ended"
_PARTS = ("what", "where", "came", "expected", "hint")
_ALIGNED = 64
"""Where parts of shared memory begin."""
_ANSWERED, _NO_MORE = b"a", b"n"
"""What a process says before it ends: its answer is written, or there is nothing to answer. A status says neither."""


class Streams(NamedTuple):
    """Streams of one tensor, one after the other in `words`, ``[tokens, kv_heads, head_dim]``; `rows` tokens each.

    `positions` are int64 ``[tokens]``, or None where they are unknown.
    """

    words: Words
    rows: Sequence[int]
    tensor: Tensor
    positions: NDArray[np.int64] | None = None
    rope: Rope | None = None
    dtype: DType = "fp16"

    def spans(self) -> list[slice]:
        ends = np.cumsum(self.rows).tolist()
        return [slice(end - rows, end) for end, rows in zip(ends, self.rows, strict=True)]

    def split(self) -> list[Stream]:
        positions = self.positions
        return [
            Stream(self.words[span], self.tensor, None if positions is None else positions[span], self.rope, self.dtype)
            for span in self.spans()
        ]

    def sides(self) -> list[SideInfo]:
        _, heads, dim = self.words.shape
        known = {rows: SideInfo(self.tensor, (rows, heads, dim), self.dtype) for rows in set(self.rows)}
        return [known[rows] for rows in self.rows]

    def alone(self, place: int) -> Streams:
        """One of them."""
        span = self.spans()[place]
        positions = None if self.positions is None else self.positions[span]
        return self._replace(words=self.words[span], rows=[self.rows[place]], positions=positions)

    @classmethod
    def of(cls, stream: Stream) -> Streams:
        """A single one."""
        return cls(stream.words, [len(stream.words)], stream.tensor, stream.positions, stream.rope, stream.dtype)


class Encoded(NamedTuple):
    """What streams were encoded to: a payload each, or a `NotPlain`; those of another process are gone with its next.

    Bytes by plane and counts by mode are of all streams together; `untold` is the place of the first stream of which
    the codec cannot tell them, and what it raised; `seconds` are processor seconds.
    """

    payloads: Sequence[Any]
    seconds: float
    plane_bytes: Mapping[str, int]
    mode_counts: Mapping[str, Mapping[str, int]]
    untold: tuple[int, BaseException] | None = None


class Coded(NamedTuple):
    """Records to decode, of `lengths` bytes each, one after the other; `unwrap` gives the payload of one.

    `shape` is that of the words of all of them together.
    """

    records: bytes
    lengths: Sequence[int]
    sides: Sequence[SideInfo]
    shape: tuple[int, ...]
    unwrap: Callable[[memoryview], Buffer]

    def payloads(self) -> list[Buffer]:
        whole, ends = memoryview(self.records), np.cumsum(self.lengths).tolist()
        return [self.unwrap(whole[end - length : end]) for end, length in zip(ends, self.lengths, strict=True)]

    def alone(self, place: int) -> Coded:
        """One of them."""
        first, side = sum(self.lengths[:place]), self.sides[place]
        record = self.records[first : first + self.lengths[place]]
        return self._replace(records=record, lengths=[len(record)], sides=[side], shape=side.shape)


class Decoded(NamedTuple):
    """What `number` streams were decoded to: `words` of all together, and by its place each that is kept apart."""

    number: int
    seconds: float
    words: Words | None
    others: Mapping[int, object]

    def part(self, place: int, span: slice) -> object:
        """Of one stream."""
        return self.others[place] if place in self.others or self.words is None else self.words[span]


class NotPlain:
    """What a codec gave in place of bytes or an array, by the name of its type."""

    def __init__(self, name: str) -> None:
        self.name = name


def type_name(given: object) -> str:
    """The type of what a codec gave, wherever it was made."""
    return given.name if isinstance(given, NotPlain) else type(given).__name__


def is_plain(payload: object) -> bool:
    """Whether it is bytes: the length of anything else would be no size."""
    return isinstance(payload, bytes | bytearray | memoryview) and memoryview(payload).nbytes == len(payload)


class Coder(ABC):
    """Encodes and decodes streams, one call at a time: `many` by the codec's methods for many, or a single one."""

    @abstractmethod
    def encode(self, streams: Streams, *, many: bool = True) -> Encoded: ...

    @abstractmethod
    def decode(self, batch: Sequence[Coded], *, many: bool = True) -> Iterator[Decoded]:
        """From the last of the batch to the first."""

    def encode_one(self, stream: Stream) -> Any:
        """The payload of a single stream, or a `NotPlain`."""
        return self.encode(Streams.of(stream), many=False).payloads[0]

    def decode_one(self, payload: Buffer, side: SideInfo) -> Any:
        """The words of a single payload, or what stands for something else."""
        coded = Coded(bytes(payload), [len(payload)], [side], side.shape, memoryview)
        return next(self.decode([coded], many=False)).part(0, slice(None))


@dataclass(frozen=True)
class Here(Coder):
    """A codec that is run in this process, on copies of the words that it cannot write to."""

    codec: Codec

    def encode(self, streams: Streams, *, many: bool = True) -> Encoded:
        words = streams.words.copy() if streams.words.flags.writeable else streams.words
        words.flags.writeable = False
        return _encode(self.codec, streams._replace(words=words), many)

    def decode(self, batch: Sequence[Coded], *, many: bool = True) -> Iterator[Decoded]:
        for coded in reversed(batch):
            words, seconds = _decode(self.codec, coded, many)
            yield Decoded(len(words), seconds, None, dict(enumerate(words)))


def _encode(codec: Codec, streams: Streams, many: bool) -> Encoded:
    split, sides = streams.split(), streams.sides()
    started = thread_time()
    given = list(codec.encode_many(split)) if many else [codec.encode(split[0])]
    seconds = thread_time() - started
    payloads = [bytes(one) if is_plain(one) else NotPlain(type(one).__name__) for one in given]
    plane_bytes: dict[str, int] = {}
    mode_counts: dict[str, dict[str, int]] = {}
    for place, (payload, side) in enumerate(zip(payloads, sides, strict=False)):
        if isinstance(payload, bytes):
            try:
                add_counts(plane_bytes, _counts(codec.plane_bytes(payload, side)))
                for plane, counts in _counts(codec.modes(payload, side)).items():
                    add_counts(mode_counts.setdefault(plane, {}), counts)
            except BaseException as error:
                return Encoded(payloads, seconds, {}, {}, (place, error))
    return Encoded(payloads, seconds, plane_bytes, mode_counts)


def _decode(codec: Codec, coded: Coded, many: bool) -> tuple[list[Any], float]:
    """What the streams come to, and processor seconds; the last record is handed over first."""
    started = thread_time()
    payloads = coded.payloads()
    if many:
        return list(codec.decode_many(payloads[::-1], coded.sides[::-1]))[::-1], thread_time() - started
    return [codec.decode(payloads[0], coded.sides[0])], thread_time() - started


def add_counts(to: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        to[name] = to.get(name, 0) + count


def _counts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Counts by name, of one level or two."""
    if not isinstance(told, Mapping):
        raise TypeError(f"{told!r:.80} is no mapping of counts")
    return {
        str(name): _counts(count) if isinstance(count, Mapping) else whole_number(count) for name, count in told.items()
    }


def is_ours(codec: Codec) -> bool:
    """Whether a codec is one of this package, whose tests hold that it keeps nothing and decodes in other processes."""
    cls = type(codec)
    if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is not cls:
        return False
    code = (cls, *(getattr(cls, name) for name in ("encode", "encode_many", "decode", "decode_many")))
    return all(str(getattr(one, "__module__", "")).startswith("pytest_h2o.codecs.") for one in code)


_elsewhere = threading.local()


def processor_s() -> float:
    """Processor seconds of this thread, and of the processes that coded for it."""
    return thread_time() + float(getattr(_elsewhere, "seconds", 0.0))


@contextlib.contextmanager
def keep_apart(codec: Codec, *, decodes: bool = True, limit_s: float = CODEC_TIMEOUT_S) -> Iterator[Coder]:
    """What codes for `codec` in processes that end with the block; one of ours is run in this process.

    A call that takes longer than `limit_s` seconds is an error.
    """
    if is_ours(codec):
        yield Here(codec)
        return
    with contextlib.ExitStack() as started:
        encoder = started.enter_context(_Process(codec, anew=False, limit_s=limit_s))
        yield Apart(encoder, started.enter_context(_Process(codec, anew=True, limit_s=limit_s)) if decodes else None)


@dataclass(frozen=True)
class Apart(Coder):
    """A codec in a process that encodes and in one that decodes."""

    encoder: _Process
    decoder: _Process | None = None

    def encode(self, streams: Streams, *, many: bool = True) -> Encoded:
        self.encoder.tell("encode", streams._replace(words=np.ascontiguousarray(streams.words)), many)
        told = self.encoder.hear("encode", many)
        view, ends = self.encoder.memory.take(sum(told["lengths"])), np.cumsum(told["lengths"]).tolist()
        payloads: list[Any] = [view[end - size : end] for end, size in zip(ends, told["lengths"], strict=True)]
        for place, name in told["others"]:
            payloads[place] = NotPlain(name)
        untold = told["untold"] and (told["untold"][0], _error_of(**told["untold"][1]))
        return Encoded(payloads, told["seconds"], told["plane_bytes"], told["mode_counts"], untold)

    def decode(self, batch: Sequence[Coded], *, many: bool = True) -> Iterator[Decoded]:
        assert self.decoder
        for left, coded in zip(range(len(batch) - 1, -1, -1), reversed(batch), strict=True):
            as_it_is = coded._replace(records=cast("bytes", pickle.PickleBuffer(coded.records)))
            self.decoder.tell("decode", as_it_is, many, last=not left)
            told = self.decoder.hear("decode", many)
            count = math.prod(coded.shape)
            words = np.frombuffer(self.decoder.memory.take(2 * count), np.uint16, count).reshape(coded.shape)
            others = {place: _other(*one) for place, *one in told["others"]}
            yield Decoded(told["number"], told["seconds"], words, others)


def _other(name: str, dtype: str | None, shape: Sequence[int]) -> object:
    """What stands for something else than the words that were asked for: what it holds is of no use."""
    return NotPlain(name) if dtype is None else np.broadcast_to(np.zeros((), dtype), shape)


_forking = threading.RLock()  # which the new process, forked while it is held, may take again
_ends: set[int] = set()
"""This side of all pipes, and all memory: a process that is forked later must not have them."""


class Forked:
    """A process that does `serve` with its ends of two pipes; it ends with the context, at once.

    It begins with the memory of this one. What it prints goes to standard error.
    """

    def __init__(self, serve: Callable[[int, int], object], keeps: Sequence[int] = ()) -> None:
        self._serve, self._keeps = serve, keeps
        self.start()

    def start(self) -> None:
        self._how = ""
        with _forking:
            asked, self._ask = os.pipe()
            self.answers, answer = os.pipe()
            _ends.update((self._ask, self.answers))
            self.pid = _fork()
            if not self.pid:
                self._be(asked, answer)
            os.close(asked)
            os.close(answer)

    def _be(self, asked: int, answer: int) -> NoReturn:
        try:
            for end in _ends.difference(self._keeps):
                os.close(end)
            _ends.clear()
            _ends.update((asked, answer, *self._keeps))
            gc.freeze()  # to look for garbage in what was there would copy all of it
            gc.enable()
            keep_freed_memory()
            os.dup2(2, 1)
            # Another thread may have held the lock of the old ones.
            sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            self._serve(asked, answer)
            os._exit(0)
        except BrokenPipeError:  # nobody is there to be told
            pass
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def send(self, message: bytes) -> None:
        """BrokenPipeError where the process has ended."""
        send(self._ask, message)

    def receive(self) -> bytes:
        """The next answer; EOFError where the process has ended."""
        return receive(self.answers)

    def end(self, *, at_once: bool = True) -> str:
        """End it, or wait until it has ended because nobody asks any more; tell how it has ended."""
        if not self._how:
            with _forking:
                for end in (self._ask, self.answers):
                    _ends.discard(end)
                    os.close(end)
            if at_once:
                os.kill(self.pid, signal.SIGKILL)
            self._how = _describe_end(os.waitpid(self.pid, 0)[1])
        return self._how

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.end()


class Turn:
    """Shares out work among processes that are forked from this one: the offset of a file, which they share, counts."""

    def __enter__(self) -> Turn:
        self.file = _make_file()
        _ends.add(self.file)
        return self

    def __exit__(self, *error: object) -> None:
        _ends.discard(self.file)
        os.close(self.file)

    def share(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items that fall to this process: the next one of all whenever it asks."""
        mine = self._take()
        for number, item in enumerate(items):
            if number == mine:
                yield item
                mine = self._take()

    def _take(self) -> int:
        fcntl.lockf(self.file, fcntl.LOCK_EX)  # or two can move the offset of such a file at once, to the same number
        try:
            return os.lseek(self.file, 1, os.SEEK_CUR) - 1
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN)


class Worker(Forked):
    """A process that runs code of ours alone: what it answers is taken over as it is, and it may come to its end."""

    def __init__(self, serve: Callable[[int, int], object], turn: Turn) -> None:
        super().__init__(serve, keeps=[turn.file])
        with contextlib.suppress(AttributeError, OSError):  # room for answers while nobody reads
            fcntl.fcntl(self.answers, fcntl.F_SETPIPE_SZ, _ANSWERS_BYTES)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.end(at_once=kind is not None)

    def answer(self) -> Any:
        """What `answer_with` has sent; an error over there is raised here."""
        try:
            answer = pickle.loads(self.receive())
        except EOFError as error:
            raise ExecutorError(
                "a process of this evaluation ended before its work",
                where=f"process {self.pid}",
                came=self.end(),
                hint="has the machine enough memory? --workers 1 works in one process",
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


def answer_with(answers: int, work: Callable[[], object]) -> bool:
    """Do something, and send what comes of it, or the error; False where that is None."""
    try:
        answer = work()
    except BaseException as error:
        answer = error.with_traceback(None)
        answer.__cause__ = answer.__context__ = None  # distributed has pickle take them along
    try:
        packed = pickle.dumps(answer)
    except Exception:  # an error of somebody's codec may hold anything
        packed = pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))
    send(answers, packed)
    return answer is not None


def run_on_processes(
    opened: Callable[[], contextlib.AbstractContextManager[Callable[[_Item], _Answer]]],
    items: Iterable[_Item],
    workers: int,
) -> Iterator[_Answer]:
    """Answer every item in one of `workers` processes, and yield the answers as they come; the first error ends it.

    This process is one of them, the others are forked from it. Each opens what answers, has the items as this one has
    them now, and takes the next of all when it is done with one. The others end with this one however it ends, and an
    interrupt does not wait for what other processes have in hand.
    """
    with contextlib.ExitStack() as started:
        waiting, busy = select.poll(), {}
        turn = started.enter_context(Turn())
        for _ in range(workers - 1):
            worker = started.enter_context(Worker(partial(_serve_items, opened, items, turn), turn))
            busy[worker.answers] = worker
            waiting.register(worker.answers, select.POLLIN)

        def answered(timeout_ms: int | None) -> Iterator[_Answer]:
            while busy and (ready := waiting.poll(timeout_ms)):
                for answers, _ in ready:
                    told = busy[answers].answer()
                    if told is None:
                        waiting.unregister(answers)
                        del busy[answers]
                    else:
                        yield told[0]

        answer = started.enter_context(opened())
        for item in turn.share(items):
            yield answer(item)
            yield from answered(0)
        yield from answered(None)


def _serve_items(
    opened: Callable[[], contextlib.AbstractContextManager[Callable[[_Item], _Answer]]],
    items: Iterable[_Item],
    turn: Turn,
    _: int,
    answers: int,
) -> None:
    """Answer each item that falls to this process, and with None in the end."""
    with opened() as answer:
        answered = ((answer(item),) for item in turn.share(items))
        while answer_with(answers, lambda: next(answered, None)):
            pass


def _describe_end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _make_file() -> int:
    """A file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pytest-h2o")
    from tempfile import TemporaryFile  # which takes time to import

    with TemporaryFile() as file:
        return os.dup(file.fileno())


class _Memory:
    """Memory that two processes share; it grows."""

    def __init__(self) -> None:
        self.file = _make_file()
        self._view = memoryview(bytearray())

    def take(self, size: int) -> memoryview:
        """The first `size` bytes, or more."""
        if size > len(self._view):
            length = size + size // 8
            if os.fstat(self.file).st_size < length:
                os.ftruncate(self.file, length)
            # All pages at once: one by one they take several times as long, anew in each process.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self._view = memoryview(mmap.mmap(self.file, length, flags))
        return self._view

    def cut(self, sizes: Sequence[int]) -> list[memoryview]:
        """Parts of these sizes, one after the other, each where any number may begin."""
        starts = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]).tolist()
        view = self.take(starts[-1])
        return [view[start : start + size] for start, size in zip(starts, sizes, strict=False)]


class _Process(Forked):
    """A process in which a codec codes: always the same one, or one that is forked `anew` for each batch."""

    def __init__(self, codec: Codec, *, anew: bool, limit_s: float) -> None:
        self._codec = codec.id
        self._anew = anew
        self._limit_s = limit_s
        self._late: CodecError | None = None
        self.memory = _Memory()
        _ends.add(self.memory.file)
        serve = _serve_anew if anew else _serve
        super().__init__(partial(serve, codec, self.memory), keeps=[self.memory.file])

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        super().__exit__(kind, *error)
        _ends.discard(self.memory.file)
        os.close(self.memory.file)

    def tell(self, method: str, *given: object, last: bool = False) -> None:
        """Have something done; `hear` gives what comes of it. This was the `last` of a batch, or there are more."""
        if self._late:
            raise self._late
        arrays: list[pickle.PickleBuffer] = []  # they travel by the memory
        packed = pickle.dumps((method, given, last), protocol=5, buffer_callback=arrays.append)
        sizes = [array.raw().nbytes for array in arrays]
        for part, array in zip(self.memory.cut(sizes), arrays, strict=True):
            part[:] = array.raw()
        with self._if_it_has_ended():
            self.send(pickle.dumps((packed, sizes)))

    def hear(self, method: str, many: bool) -> dict[str, Any]:
        """The next answer; what the codec raised is raised here, by the same name."""
        waiting = select.poll()
        waiting.register(self.answers, select.POLLIN)
        if not waiting.poll(1000 * self._limit_s):
            self._late = CodecError(
                f"codec {self._codec} gave no answer",
                where=f"{method}{'_many' * many}()",
                came=f"nothing in {self._limit_s:g} s",
                expected="every stream coded in that time; --h2o-codec-timeout SECONDS allows more",
            )
            raise self._late
        with self._if_it_has_ended():
            told: dict[str, Any] = json.loads(self.receive())
        if "raised" in told:
            raise _error_of(**told["raised"])
        _elsewhere.seconds = float(getattr(_elsewhere, "seconds", 0.0)) + told["seconds"]
        return told

    @contextlib.contextmanager
    def _if_it_has_ended(self) -> Iterator[None]:
        """An encoder that has ended is replaced; of decoders there can be none any more."""
        try:
            yield
        except (BrokenPipeError, EOFError) as error:
            if self._anew:
                raise CodecError(
                    f"the process in which codec {self._codec} codes is gone", hint="has the machine enough memory?"
                ) from error
            how = self.end()
            self.start()
            raise _error_of(_ENDED, how, None) from error


def _error_of(kind: str, text: str, parts: Mapping[str, str | None] | None) -> Exception:
    """What a codec raised over there."""
    if parts is None:
        foreign: Exception = type(kind, (Exception,), {})(text)
        return foreign
    known = getattr(errors, kind, CodecError)
    what = str(parts["what"])
    ours: CodecError = (known if issubclass(known, CodecError) else CodecError)(what)
    ours.where, ours.came, ours.expected, ours.hint = (parts[name] for name in _PARTS[1:])
    return ours


def _fork() -> int:
    """Fork; the new process dies with this thread, ignores Ctrl-C, and takes no part in the end of this one."""
    mother = os.getpid()
    # In the first moments of the new one, too, a handler of this one would raise: what ends this one would run twice.
    let_in = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        with warnings.catch_warnings():
            # Threads of this one, which draw progress or talk to a controller, have no part in what the new one does.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group; the mother ends this one
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, let_in)
    if not pid:
        if sys.platform == "linux":
            _libc().prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != mother:
            os._exit(1)
    return pid


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def keep_freed_memory() -> None:
    """Have large arrays reuse what others left: glibc gives it back, and has it again at a page fault every 4 KiB."""
    if hasattr(_libc(), "mallopt"):
        for parameter, most in ((-3, _MOST_FROM_HEAP), (-1, _MOST_KEPT)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            _libc().mallopt(parameter, most)
        np.empty(_MOST_FROM_HEAP // 2, np.uint8)  # numpy asks for large pages here, and those who come later have them


def _serve(codec: Codec, memory: _Memory, asked: int, answers: int) -> None:
    with contextlib.suppress(EOFError):
        while True:
            _answer(codec, memory, asked, answers)


def _serve_anew(codec: Codec, memory: _Memory, asked: int, answers: int) -> None:
    """Fork a process for each batch that is asked, which reads and answers it; report one that ends itself.

    The codec is not run in this one.
    """
    said, say = os.pipe()
    os.set_blocking(said, False)
    while True:
        select.select([asked], [], [])
        pid = _fork()
        if not pid:
            last_words = _ANSWERED
            try:
                while not _answer(codec, memory, asked, answers):
                    pass
            except EOFError:
                last_words = _NO_MORE
            os.write(say, last_words)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        try:
            if os.read(said, 1) == _NO_MORE:
                break
        except BlockingIOError:  # it said nothing: the codec ended it
            send(answers, _told({"raised": {"kind": _ENDED, "text": _describe_end(status), "parts": None}}))


def _answer(codec: Codec, memory: _Memory, asked: int, answers: int) -> bool:
    """Read what is asked, do it, and write what came of it; True where it was the last or went wrong.

    Words stay in the memory, and cannot be written to. EOFError where nothing more is asked.
    """
    packed, sizes = pickle.loads(receive(asked))
    method, given, last = pickle.loads(packed, buffers=[part.toreadonly() for part in memory.cut(sizes)])
    try:
        told = (_give_payloads if method == "encode" else _give_words)(codec, memory, *given)
    except BaseException as error:
        told, last = {"raised": _raised(error)}, True
    send(answers, _told(told))
    return bool(last)


def _told(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode()


def _raised(error: BaseException) -> dict[str, Any]:
    parts = {name: getattr(error, name) for name in _PARTS} if isinstance(error, H2OError) else None
    return {"kind": type(error).__name__, "text": describe_error(error).partition(": ")[2], "parts": parts}


def _give_payloads(codec: Codec, memory: _Memory, streams: Streams, many: bool) -> dict[str, Any]:
    """Encode, and write the payloads over the words."""
    encoded = _encode(codec, streams, many)
    plain = [one if isinstance(one, bytes) else b"" for one in encoded.payloads]
    view, at = memory.take(sum(map(len, plain))), 0
    for payload in plain:
        view[at : at + len(payload)] = payload
        at += len(payload)
    return {
        "seconds": encoded.seconds,
        "lengths": list(map(len, plain)),
        "others": [(place, one.name) for place, one in enumerate(encoded.payloads) if isinstance(one, NotPlain)],
        "plane_bytes": encoded.plane_bytes,
        "mode_counts": encoded.mode_counts,
        "untold": encoded.untold and (encoded.untold[0], _raised(encoded.untold[1])),
    }


def _give_words(codec: Codec, memory: _Memory, coded: Coded, many: bool) -> dict[str, Any]:
    """Decode, and write the words over the records."""
    given, seconds = _decode(codec, coded._replace(records=bytes(coded.records)), many)
    count = math.prod(coded.shape)
    words, first = np.frombuffer(memory.take(2 * count), np.uint16, count), 0
    others = []
    for place, (one, side) in enumerate(zip(given, coded.sides, strict=False)):
        end = first + side.words
        if type(one) is not np.ndarray or one.dtype.kind not in "biufc":
            others.append((place, type(one).__name__, None, ()))
        elif one.dtype != np.uint16 or one.shape != side.shape:
            others.append((place, "", one.dtype.str, one.shape))
        else:
            words[first:end] = one.reshape(-1)
        first = end
    return {"seconds": seconds, "number": len(given), "others": others}


def send(to: int, message: bytes) -> None:
    left = memoryview(_LENGTH.pack(len(message)) + message)
    while left:
        left = left[os.write(to, left) :]


def receive(source: int) -> bytes:
    """The next message; EOFError where there is none, or not all of it."""
    (length,) = _LENGTH.unpack(_read(source, _LENGTH.size))
    return _read(source, length)


def _read(source: int, length: int) -> bytes:
    parts = []
    while length:
        parts.append(os.read(source, length))
        if not parts[-1]:
            raise EOFError
        length -= len(parts[-1])
    return b"".join(parts)
