"""`gs://` as gcsfs has it, but for writes and removals whose answer is lost on its way.

fsspec hands this class out for `gs://`, and so to etils, with which Orbax writes its small files.
gcsfs sends whatever is written to a file object as an upload of several requests: when the answer
to the last one is lost it asks again, is told 404, and the save fails.
"""

import asyncio
import contextlib
import inspect
import io
import re
from typing import Any

import aiohttp
import gcsfs
from fsspec import asyn
from gcsfs import retry

from ns_jax.buckets import reads, writes
from ns_jax.buckets.reads import SILENT_SECONDS

_request_once = inspect.unwrap(gcsfs.GCSFileSystem._request)  # without gcsfs's attempts


class FileSystem(gcsfs.GCSFileSystem):
    """Waits with an end, checks what it sends, and believes no listing of a while ago.

    What a listing said may have changed since, by another host or another library.
    """

    def __init__(self, *arguments: Any, **named: Any):
        # Of one number gcsfs makes a limit of the whole request, which it does not send again.
        limit = aiohttp.ClientTimeout(sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
        ours = {"requests_timeout": limit, "use_listings_cache": False, "consistency": "md5"}
        super().__init__(*arguments, **{**ours, **named})

    @retry.retry_request(retries=gcsfs.GCSFileSystem.retries)
    async def _request(self, method: str, path: str, *arguments: str, **named: Any) -> Any:
        """Raises RefusedError after two attempts, where gcsfs makes six in half a minute."""
        for attempt in (1, 2):
            try:
                return await _request_once(self, method, path, *arguments, **named)
            except Exception as error:
                if not reads.is_refusal(error):
                    raise
                if attempt == 2:
                    bucket = re.search(r"\bb/([^/?]+)", path.format(*arguments))
                    raise reads.refusal(f"gs://{bucket[1] if bucket else ''}", error) from None
            await asyncio.sleep(reads.PAUSE)
        raise AssertionError

    def _open(self, path: str, mode: str = "rb", **named: Any) -> Any:
        if mode == "wb":
            return WholeObject(self, path)
        return super()._open(path, mode, **named)

    async def _rm_file(self, path: str, **named: Any) -> None:
        with contextlib.suppress(FileNotFoundError):  # by a request whose answer was lost
            await super()._rm_file(path, **named)

    async def _rm(self, path: str, *arguments: Any, **named: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            return await super()._rm(path, *arguments, **named)

    rm = asyn.sync_wrapper(_rm)


class WholeObject(io.BytesIO):
    """A file object to write to, which is sent in one request when it is closed."""

    def __init__(self, filesystem: FileSystem, path: str):
        super().__init__()
        self._filesystem, self._path = filesystem, path

    def __exit__(self, kind: type | None, *more: object) -> None:
        if kind:
            super().close()  # it was ended before it was whole
        self.close()

    def __del__(self) -> None:
        """Nothing is sent of what nobody closed."""

    def close(self) -> None:
        """Raises OSError."""
        if not self.closed:
            data = self.getvalue()
            super().close()
            writes.put(self._filesystem, self._path, data)
