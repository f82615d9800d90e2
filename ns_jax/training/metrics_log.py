"""Where a training's numbers go: `metrics.jsonl`, TensorBoard, Weights & Biases if asked."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import tempfile
import time

from ns_jax import files
from ns_jax.errors import MissingPackageError

FLUSH_SECONDS = 10  # after which TensorBoard's events are on the disk


class MetricsLog:
    """Numbers of steps, named `<split>/<name>`. What a resumed run repeats is dropped first."""

    def __init__(
        self,
        workdir: pathlib.Path,
        start_step: int,
        *,
        write: bool = True,
        tensorboard: bool = False,
        wandb: str = "",
    ):
        """Without `write` it does nothing: of many processes the first one writes.

        `wandb`: a project. Raises MissingPackageError where its library is not installed.
        """
        self._sinks: list[_JsonLines | _TensorBoard | _WandB] = []
        if not write:
            return
        self._sinks.append(_JsonLines(workdir / "metrics.jsonl", start_step))
        if tensorboard:
            self._sinks.append(_TensorBoard(workdir, start_step))
        if wandb:
            self._sinks.append(_WandB(workdir, wandb))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        numbers = {name: float(value) for name, value in numbers.items()}
        for sink in self._sinks:
            sink.write(step, numbers)

    def flush(self) -> None:
        """Before a checkpoint: whoever resumes from it finds what was written until then."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


class _JsonLines:
    def __init__(self, path: pathlib.Path, start_step: int):
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    kept += [line] if json.loads(line)["step"] <= start_step else []
                except ValueError:
                    continue  # a line that a kill cut in two
        with files.replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))
        self._file = files.Appender(path)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        # JSON has no words for what is not finite.
        shown = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **shown}) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    def __init__(self, directory: pathlib.Path, start_step: int):
        import tensorboardX  # half a second

        self._directory, self._here = os.fspath(directory), contextlib.ExitStack()
        self._written = self._directory
        if files.is_remote(self._directory):  # events are written here, and sent by `flush`
            self._written = self._here.enter_context(tempfile.TemporaryDirectory())
        self._writer = tensorboardX.SummaryWriter(
            self._written,
            purge_step=start_step + 1,
            flush_secs=FLUSH_SECONDS,
            filename_suffix=f".{start_step}",  # two starts in one second write two files
        )

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        if self._written != self._directory:
            self._writer.flush()
            self._send()

    def _send(self) -> None:
        for name in files.names(self._written):
            files.write(f"{self._directory}/{name}", files.read(f"{self._written}/{name}"))

    def close(self) -> None:
        self._writer.close()
        with self._here:
            if self._written != self._directory:
                self._send()


class _WandB:
    def __init__(self, directory: pathlib.Path, project: str):
        try:
            import wandb
        except ImportError:
            raise MissingPackageError(
                "train.wandb needs its library: pip install 'ns-jax[wandb]'"
            ) from None
        # The same run however often the training is resumed in this workdir.
        name = str(directory)
        self._run = wandb.init(
            project=project,
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
            name="/".join(directory.parts[-2:]),
            resume="allow",
            dir=None if files.is_remote(name) else name,
        )

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def flush(self) -> None:
        """Nothing: it sends by itself."""

    def close(self) -> None:
        self._run.finish()
