"""A codec of a third party, kept apart from what it is judged by.

Its code is never run in the process that judges. One process that is forked from here encodes; another one, forked anew
for each call from a process that has never coded, decodes: it has the payloads and their side facts, and nothing that
the encoder kept in a table, a field or a module. Payloads reach it in the reverse of their order, so that none can lean
on what came before it. What comes back is lengths, shapes and plain bytes, never a pickled object.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import select
import signal
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index as whole_number
from queue import SimpleQueue
from time import thread_time
from typing import Any, ClassVar, NoReturn, cast

import numpy as np

from pytest_h2o import errors
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.errors import CodecError, H2OError, describe_error
from pytest_h2o.inputs.options import CODEC_TIMEOUT_S

_LENGTH = struct.Struct("<Q")
_PARTS = ("what", "where", "came", "expected", "hint")
_ANSWERED, _NO_MORE = b"a", b"n"
"""What a process says before it ends: its answer is written, or there is nothing to answer. A status says neither."""


class _Payload(bytes):
    """A payload with what its codec told of it, or the error that it raised when asked."""

    told: Mapping[str, Any]


class NotPlain:
    """What a codec gave in place of bytes or an array, by the name of its type."""

    def __init__(self, name: str) -> None:
        self.name = name


def type_name(given: object) -> str:
    """The type of what a codec gave, wherever it was made."""
    return given.name if isinstance(given, NotPlain) else type(given).__name__


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


@dataclass(frozen=True)
class Apart(Codec):
    """`codec`, run by the processes of two queues; safe to call from as many threads as there are."""

    id: ClassVar[str] = "apart"
    codec: Codec
    encoders: SimpleQueue[_Process]
    decoders: SimpleQueue[_Process]

    def encode(self, stream: Stream) -> bytes:
        return cast("bytes", self._ask(self.encoders, "encode", stream)[0])

    def encode_many(self, streams: Sequence[Stream]) -> list[bytes]:
        return cast("list[bytes]", self._ask(self.encoders, "encode_many", list(streams)))

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return cast("Words", self._ask(self.decoders, "decode", bytes(payload), side)[0])

    def decode_many(self, payloads: Sequence[bytes | memoryview], sides: Sequence[SideInfo]) -> list[Words]:
        plain = [bytes(payload) for payload in payloads]
        return cast("list[Words]", self._ask(self.decoders, "decode_many", plain, list(sides)))

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        return _told(payload, "modes")

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        return _told(payload, "plane_bytes")

    def _ask(self, queue: SimpleQueue[_Process], method: str, *given: object) -> list[object]:
        process = queue.get()
        try:
            return process.ask(self.codec.id, method, given)
        finally:
            queue.put(process)


def _told(payload: object, method: str) -> Mapping[str, Any]:
    """What the encoder's process told with a payload."""
    told = payload.told if isinstance(payload, _Payload) else {}
    if "raised" in told:
        raise _error_of(**told["raised"])
    return cast("Mapping[str, Any]", told.get(method, {}))


@contextlib.contextmanager
def keep_apart(codec: Codec, pairs: int, *, decodes: bool = True, limit_s: float = CODEC_TIMEOUT_S) -> Iterator[Codec]:
    """`codec` in as many pairs of processes, which end with the block; one of ours is left in this process.

    A call that takes longer than `limit_s` seconds is an error.
    """
    if is_ours(codec):
        yield codec
        return
    started: list[_Process] = []
    encoders: SimpleQueue[_Process] = SimpleQueue()
    decoders: SimpleQueue[_Process] = SimpleQueue()
    try:
        for _ in range(pairs):
            for queue in (encoders, decoders) if decodes else (encoders,):
                started.append(_Process(codec, anew=queue is decoders, limit_s=limit_s))
                queue.put(started[-1])
        yield Apart(codec, encoders, decoders)
    finally:
        for process in started:
            process.end()


_forking = threading.Lock()
_ends: set[int] = set()
"""This side of the pipes of all processes: one that is forked later must not hold them open."""


class _Process:
    """A process that waits, without the codec being run in it, and forks itself for what it is asked; see `_wait`."""

    def __init__(self, codec: Codec, *, anew: bool, limit_s: float) -> None:
        self._limit_s = limit_s
        with _forking:
            asked, self._ask = os.pipe()
            self._answers, answer = os.pipe()
            _widen(self._ask, answer)
            _ends.update((self._ask, self._answers))
            self.pid = _fork()
            if not self.pid:
                for end in _ends:
                    os.close(end)
                # What a codec prints; another thread may have held the lock of the old ones.
                sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
                _wait(codec, asked, answer, anew=anew)
            os.close(asked)
            os.close(answer)

    def end(self) -> None:
        """End it at once; what it was asked is of no use to anybody."""
        with _forking:
            for end in (self._ask, self._answers):
                _ends.discard(end)
                os.close(end)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def ask(self, codec: str, method: str, given: Sequence[object]) -> list[object]:
        """Have a method of the codec called; what it raises is raised here, by the same name."""
        try:
            arrays: list[pickle.PickleBuffer] = []  # they travel as they are
            packed = pickle.dumps((method, given), protocol=5, buffer_callback=arrays.append)
            _send(self._ask, [packed, _LENGTH.pack(len(arrays)), *(array.raw() for array in arrays)])
            self._await_answer(codec, method)
            header = json.loads(bytes(_receive(self._answers)))
            _elsewhere.seconds = float(getattr(_elsewhere, "seconds", 0.0)) + header["seconds"]
            if "raised" in header:
                raise _error_of(**header["raised"])
            return [self._take(kind, **about) for kind, about in header["gave"]]
        except (BrokenPipeError, EOFError) as error:
            raise CodecError(
                f"the process in which codec {codec} codes is gone", hint="has the machine enough memory?"
            ) from error

    def _await_answer(self, codec: str, method: str) -> None:
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)
        if not waiting.poll(1000 * self._limit_s):
            raise CodecError(
                f"codec {codec} gave no answer",
                where=f"{method}()",
                came=f"nothing in {self._limit_s:g} s",
                expected="every stream coded in that time; --h2o-codec-timeout SECONDS allows more",
            )

    def _take(self, kind: str, **about: Any) -> object:
        match kind:
            case "bytes":
                payload = _Payload(_receive(self._answers))
                payload.told = about
                return payload
            case "words":
                return np.frombuffer(_receive(self._answers), np.uint16).reshape(about["shape"])
            case "array":  # of another shape or type than asked: what it holds is of no use
                return np.broadcast_to(np.zeros((), about["dtype"]), about["shape"])
        return NotPlain(about["name"])


def _widen(*pipes: int) -> None:
    """Let a pipe hold as much as is allowed: each time it is full the other side must be woken."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in pipes:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


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
    with warnings.catch_warnings():
        # Threads of this process, which draw progress or talk to a controller, have no part in what the new one does.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group; the mother ends this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != mother:
            os._exit(1)
    return pid


def _wait(codec: Codec, asked: int, answers: int, *, anew: bool) -> NoReturn:
    """Fork a process whenever something is asked, which answers it, or all that follows; report one that ends itself.

    What is asked is read by the forked process alone.
    """
    said, say = os.pipe()
    os.set_blocking(said, False)
    try:
        while True:
            select.select([asked], [], [])
            pid = _fork()
            if not pid:
                while (answered := _answer(codec, asked, answers)) and not anew:
                    pass
                os.write(say, _ANSWERED if answered else _NO_MORE)
                os._exit(0)
            _, ended = os.waitpid(pid, 0)
            try:
                if os.read(said, 1) == _NO_MORE:
                    break
            except BlockingIOError:  # it said nothing: the codec ended it
                status = os.waitstatus_to_exitcode(ended)
                text = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
                raised = {"kind": "its process ended", "text": text, "parts": None}
                _send(answers, [json.dumps({"seconds": 0.0, "raised": raised}).encode()])
    finally:
        os._exit(1)


def _answer(codec: Codec, asked: int, answers: int) -> bool:
    """Read what is asked, do it, and write what came of it; False where nothing more is asked."""
    try:
        packed, count = _receive(asked), int.from_bytes(_receive(asked), "little")
        method, given = pickle.loads(packed, buffers=[_receive(asked) for _ in range(count)])
    except EOFError:
        return False
    header: dict[str, Any] = {}
    blobs: list[Any] = []
    started = thread_time()
    try:
        header["gave"] = _call(codec, method, given, blobs)
    except BaseException as error:
        blobs = []
        header["raised"] = _raised(error)
    header["seconds"] = thread_time() - started
    _send(answers, [json.dumps(header).encode(), *blobs])
    return True


def _raised(error: BaseException) -> dict[str, Any]:
    parts = {name: getattr(error, name) for name in _PARTS} if isinstance(error, H2OError) else None
    return {"kind": type(error).__name__, "text": describe_error(error).partition(": ")[2], "parts": parts}


_Described = tuple[str, dict[str, Any]]


def _call(codec: Codec, method: str, given: Sequence[Any], blobs: list[Any]) -> list[_Described]:
    """Have a method called, and describe each thing that it gave; what is bytes goes to `blobs`."""
    if method.startswith("encode"):
        many = method == "encode_many"
        streams = given[0] if many else given
        for stream in streams:
            stream.words.flags.writeable = False
        payloads = list(codec.encode_many(streams)) if many else [codec.encode(streams[0])]
        sides = [stream.side_info() for stream in streams]
        return [_describe_payload(codec, one, sides[min(n, len(sides) - 1)], blobs) for n, one in enumerate(payloads)]
    if method == "decode":
        return [_describe_words(codec.decode(*given), given[1], blobs)]
    packed, sides = given
    words = list(codec.decode_many(packed[::-1], sides[::-1]))[::-1]
    return [_describe_words(one, sides[min(n, len(sides) - 1)], blobs) for n, one in enumerate(words)]


def _describe_payload(codec: Codec, one: object, side: SideInfo, blobs: list[Any]) -> _Described:
    if not isinstance(one, bytes | bytearray | memoryview) or memoryview(one).nbytes != len(one):
        return "other", {"name": type(one).__name__}
    payload = bytes(one)
    blobs.append(payload)
    try:
        methods = ("plane_bytes", "modes")
        return "bytes", {name: _counts(getattr(codec, name)(payload, side)) for name in methods}
    except BaseException as error:
        return "bytes", {"raised": _raised(error)}


def _counts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Counts by name, of one level or two."""
    if not isinstance(told, Mapping):
        raise TypeError(f"{told!r:.80} is no mapping of counts")
    return {
        str(name): _counts(count) if isinstance(count, Mapping) else whole_number(count) for name, count in told.items()
    }


def _describe_words(one: object, side: SideInfo, blobs: list[Any]) -> _Described:
    if type(one) is not np.ndarray or one.dtype.kind not in "biufc":
        return "other", {"name": type(one).__name__}
    if one.dtype != np.uint16 or one.shape != side.shape:
        return "array", {"dtype": one.dtype.str, "shape": one.shape}
    blobs.append(np.ascontiguousarray(one).reshape(-1).data)
    return "words", {"shape": one.shape}


def _send(to: int, blobs: Sequence[Any]) -> None:
    for blob in blobs:
        left = memoryview(blob).cast("B")
        os.write(to, _LENGTH.pack(left.nbytes))
        while left:
            left = left[os.write(to, left) :]


def _receive(source: int) -> memoryview:
    """The next blob; EOFError where there is none, or not all of it."""
    (length,) = _LENGTH.unpack(_read(source, _LENGTH.size))
    return _read(source, length)


def _read(source: int, length: int) -> memoryview:
    blob = left = np.empty(length, np.uint8).data
    while left:
        count = os.readv(source, [left])
        if not count:
            raise EOFError
        left = left[count:]
    return blob
