"""What a fingerprint of a source knows of each of its files: a digest that costs a few reads."""

import collections
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from ns_jax import files
from ns_jax.buckets import reads
from ns_jax.digest import Digest

SAMPLE = 4096  # bytes that are read at one place of a file ...
SAMPLES = 64  # ... and at this many places of a shard, all of a small one
UNREADABLE = b"unreadable"  # instead of a digest
WHOLE = 4 << 20  # bytes of an object that is rather read in one request than at many places
AT_ONCE = 1024  # objects whose answers are waited for together


class About(NamedTuple):
    """What a bucket says of an object."""

    size: int  # bytes; -1: there is none
    version: str  # another one once it is written anew


def of(paths: Sequence[str], shards: bool = False) -> list[bytes]:
    """A digest of each file's size and of a little of its content, whatever its name and time.

    What a fingerprint needs to notice a file that was written anew, at the price of one short read
    for an image (one compressed anew differs in its length or its end) and of `SAMPLES` for a shard
    of many images. Bytes changed in place elsewhere go unnoticed. Times are left out on
    purpose: a copy on another machine is the same data. That of a file that cannot be opened is
    `UNREADABLE`. Those of a bucket are remembered on this machine as long as it lists the same
    objects. Raises OSError for what this machine lacks, as memory, and as `reads.read`.
    """
    if not paths or not files.is_remote(paths[0]):
        return files.in_threads(lambda path: _of_file(path, shards), paths)
    abouts = about(paths, fresh=True)
    listed = "\n".join(f"{path} {one}" for path, one in zip(paths, abouts, strict=True))
    remembered = (
        files.own_cache()
        / "signatures"
        / str(Digest(f"{shards}\n{listed}".encode(errors="surrogateescape")))
    )
    length = hashlib.sha256().digest_size
    with contextlib.suppress(OSError):
        held = pathlib.Path(remembered).read_bytes()
        if len(held) == length * len(paths):
            return [held[start : start + length] for start in range(0, len(held), length)]
    found = _of_objects(paths, abouts, shards)
    if UNREADABLE not in found:
        with contextlib.suppress(OSError):
            files.write(os.fspath(remembered), b"".join(found))
    return found


def _of_file(path: str, shard: bool) -> bytes:
    try:
        with files.open_binary(path, buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            pieces = []
            for start in _places(length, shard):
                file.seek(start)
                pieces.append(file.read(SAMPLE))
            return _digest(length, pieces)
    except OSError as error:
        if files.is_of_the_machine(error, path):
            raise
        return UNREADABLE


def _places(length: int, shard: bool) -> list[int]:
    end = max(0, length - SAMPLE)
    step = max(SAMPLE, end // SAMPLES)  # all of a file that is small
    return [*range(0, end, step), end] if shard else [end]


def _digest(length: int, pieces: list[bytes]) -> bytes:
    sample = hashlib.sha256(b"%d" % length)
    for piece in pieces:
        sample.update(piece)
    return sample.digest()


def _of_objects(paths: Sequence[str], abouts: list[About], shards: bool) -> list[bytes]:
    """`REQUESTS` reads in flight, whether they are of one object or of many."""
    found = []
    with concurrent.futures.ThreadPoolExecutor(files.REQUESTS) as pool:

        def ask(path: str, size: int) -> list[concurrent.futures.Future]:
            client, places = files.filesystem(path), _places(size, shards)
            if len(places) > 1 and size <= WHOLE:
                return [pool.submit(reads.read, client, path, 0, size)]
            ends = [min(size, place + SAMPLE) for place in places]
            pairs = zip(places, ends, strict=True)
            return [pool.submit(reads.read, client, path, *pair) for pair in pairs]

        for start in range(0, len(paths), AT_ONCE):
            chosen = list(zip(paths, abouts, strict=True))[start : start + AT_ONCE]
            asked = [[] if one.size < 0 else ask(path, one.size) for path, one in chosen]
            for (path, one), answers in zip(chosen, asked, strict=True):
                try:
                    read = [answer.result() for answer in answers]
                except OSError as error:
                    if files.is_of_the_machine(error, path):
                        raise
                    read = []
                if len(read) == 1:
                    places = _places(one.size, shards)
                    first = 0 if len(places) > 1 else places[0]
                    read = [read[0][at - first : at - first + SAMPLE] for at in places]
                found.append(_digest(one.size, read) if read else UNREADABLE)
    return found


def about(paths: Sequence[str], fresh: bool = False) -> list[About]:
    """The size and version of each object, from listings of the directories they lie in; unless
    `fresh`, from those that this process has.
    """
    directories = collections.defaultdict(list)
    for path in paths:
        directories[path.rpartition("/")[0]].append(path)

    def look(directory: str) -> dict[str, About]:
        wanted, client = directories[directory], files.filesystem(directory)
        if len(wanted) > 1:
            listed = reads.whole_answer(client, directory, "ls", detail=True, refresh=fresh)
            return {client._strip_protocol(one["name"]): _about(one) for one in listed}
        found = {}
        for path in wanted:
            with contextlib.suppress(FileNotFoundError):
                one = reads.whole_answer(client, path, "info")
                found[client._strip_protocol(path)] = _about(one)
        return found

    found = {}
    for one in files.in_threads(look, list(directories)):
        found.update(one)
    nothing = About(-1, "")
    return [found.get(files.filesystem(path)._strip_protocol(path), nothing) for path in paths]


def _about(listed: dict) -> About:
    names = ("generation", "ETag", "etag", "md5Hash", "mtime", "LastModified")
    version = next((str(listed[name]) for name in names if listed.get(name)), "")
    is_file = listed["type"] != "directory"
    return About(int(listed["size"]) if is_file else -1, version)
