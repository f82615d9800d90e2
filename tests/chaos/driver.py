"""Starts `selftrain` again and again with the same command, and does to it what machines do.

Its workdir is on a disk or in a bucket.
"""

import io
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
from etils import epath

from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.selection import table as table_lib
from tests.conftest import ROOT

FLAGS = {
    "model.name": "efficientnet-pico",
    "train.batch_size": 10,
    "train.log_every_steps": 1,
    "train.save_every_minutes": 0.0,
    "optim.warmup_epochs": 0.5,
    "select.threshold": 0.0,
    "select.per_class": 20,
    "selftrain.overrides.iteration_1.train.unlabelled_ratio": 2.0,
}
SIGNALS = ("SIGKILL", "SIGTERM", "SIGSTOP")
STOPPED = 143  # the program's status after SIGTERM
GRACE_SECONDS = 25.0
SMALL_DISK = "256m"


class Driver:
    """One workdir, what is done to it, and what came of that."""

    def __init__(
        self,
        workdir: pathlib.Path,
        output: pathlib.Path,
        flags,
        environment,
        seed: int,
        config: str = "configs/digits.py",
    ):
        """`output`: file of what the program says, not on a disk that is to be full."""
        self.workdir, self._output, self._environment = epath.Path(workdir), output, environment
        self._config = config
        self._flags = [f"--config.{name}={value}" for name, value in {**FLAGS, **flags}.items()]
        self._chance = random.Random(seed)
        self.counts = dict.fromkeys((*SIGNALS, "checkpoint", "shard", "disk full"), 0)
        self.starts = self.in_training = self.lost = self.lost_to_notice = 0
        self.most_lost = {"sound": 0, "damaged": 0}  # at once, by what its checkpoints were
        self._damaged = set()  # iterations with a damaged checkpoint that nobody has met yet
        self._promised = {}  # iteration -> the step that was saved at a notice

    def finish(self) -> None:
        """Undisturbed, to the end."""
        assert self._wait(self._start()) == 0, self._said()

    def disturb(self, disturbances: int, seconds: float, disk_full: bool) -> None:
        """So many times, each within `seconds` of the last, and then to the end.

        A job that is done too soon has its last training undone.
        """
        turns = self._chance.sample(SIGNALS, 3)
        process, logged = self._start(), {}
        while (done := sum(self.counts.values())) < disturbances:
            signal_name = turns[done % 3]
            if self._ends_within(process, self._chance.uniform(0, seconds)):
                assert self._wait(process) == 0, self._said()
                self._undo()
            else:
                self._send(process, signal_name)
                if signal_name == "SIGSTOP":
                    continue
            self._account(logged)
            if disk_full and done > disturbances / 2:
                disk_full = False
                self._fill_disk()
            for kind, damage in (
                ("checkpoint", self._damage_checkpoint),
                ("shard", self._damage_shard),
            ):
                due = done > disturbances / 2 and not self.counts[kind]
                if self._chance.random() < 0.25 or due:
                    damage()
            logged = self._logged_steps()
            process = self._start()
        assert self._wait(process) == 0, self._said()
        self._account(logged)

    def _start(self) -> subprocess.Popen:
        self.starts += 1
        command = ["-m", "ns_jax", "selftrain", f"--config={self._config}"]
        with self._output.open("w") as output:
            return subprocess.Popen(
                [sys.executable, *command, f"--workdir={self.workdir}", *self._flags],
                env=self._environment,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, process: subprocess.Popen) -> int:
        return process.wait(timeout=900)

    def _ends_within(self, process: subprocess.Popen, seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _said(self) -> str:
        return self._output.read_text()[-5000:]

    def _send(self, process: subprocess.Popen, signal_name: str) -> None:
        self.counts[signal_name] += 1
        process.send_signal(getattr(signal, signal_name))
        if signal_name == "SIGSTOP":
            time.sleep(self._chance.uniform(0.1, 1.0))
            process.send_signal(signal.SIGCONT)
            return
        told = time.monotonic()
        status = self._wait(process)
        assert time.monotonic() - told < GRACE_SECONDS + 5, self._said()
        # A program that is being loaded cannot have said yet what SIGTERM means to it; one that
        # ends just then is done.
        allowed = (-9,) if signal_name == "SIGKILL" else (STOPPED, -15, 0)
        assert status in allowed, f"status {status} after {signal_name}\n{self._said()}"

    def _logged_steps(self) -> dict[int, int]:
        """The last step of each iteration's training that its log has."""
        steps = {}
        for path in self.workdir.glob("iteration_*/metrics.jsonl"):
            numbers = re.findall(r'"step": (\d+)', path.read_text())
            steps[int(path.parent.name.removeprefix("iteration_"))] = int(([0, *numbers])[-1])
        return steps

    def _account(self, logged: dict[int, int]) -> None:
        """Steps that were done before the last start, and that it had to do again."""
        said, now = self._output.read_text(), self._logged_steps()
        for part in re.split(r"^iteration ", said, flags=re.MULTILINE)[1:]:
            iteration = int(part.partition(":")[0])
            before = logged.get(iteration, 0)
            found = re.search(r"resuming from step ([\d,]+)", part)
            if not found and before <= now.get(iteration, 0):
                continue  # it came no further than the checkpoint that it would go on from
            self.in_training += 1
            start = int(found[1].replace(",", "")) if found else 0
            lost = max(0, before - start)
            self.lost += lost
            kind = "damaged" if iteration in self._damaged else "sound"
            self.most_lost[kind] = max(self.most_lost[kind], lost)
            self._damaged.discard(iteration)
            self.lost_to_notice += max(0, self._promised.pop(iteration, 0) - start)
            if saved := re.search(r"saved step ([\d,]+)", part):
                self._promised[iteration] = int(saved[1].replace(",", ""))

    def _undo(self) -> None:
        self._promised.clear()
        directory = max(self.workdir.glob("iteration_*"))
        for name in ("manifest.json", "eval.json", "metrics.jsonl"):
            (directory / name).unlink(missing_ok=True)
        (directory / "checkpoints").rmtree(missing_ok=True)

    def _damage(self, path: epath.Path) -> None:
        """Cuts off, overwrites or removes a part of a file."""
        how = self._chance.choice(("cut", "zeros", "bit"))
        content = bytearray(path.read_bytes())
        place = self._chance.randrange(len(content))
        if how == "cut":
            del content[place:]
        elif how == "zeros":
            content[place : place + 4096] = bytes(len(content[place : place + 4096]))
        else:
            content[place] ^= 1 << self._chance.randrange(8)
        path.write_bytes(bytes(content))

    def _damage_checkpoint(self) -> None:
        """The newest of some training that has another one to go back to."""
        steps = [
            sorted((p for p in d.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
            for d in self.workdir.glob("iteration_*/checkpoints")
        ]
        steps = [found for found in steps if len(found) > 1]
        if not steps:
            return
        newest = self._chance.choice(steps)[-1]
        # Of what is read: weights, optimiser, description.
        files = [
            *newest.glob("*/ocdbt.process_0/d/*"),
            *newest.glob("*/manifest.ocdbt"),
            *newest.glob("description/model.json"),
        ]
        self._damage(self._chance.choice(files))
        self.counts["checkpoint"] += 1
        iteration = int(newest.parent.parent.name.removeprefix("iteration_"))
        self._damaged.add(iteration)
        self._promised.pop(iteration, None)

    def _damage_shard(self) -> None:
        """Of labels that have to be selected from again: the selection is gone."""
        labelled = [path.parent for path in self.workdir.glob("iteration_*/labels/manifest.json")]
        if not labelled:
            return
        labels = self._chance.choice(labelled)
        (labels.parent / "selection").rmtree(missing_ok=True)
        path = self._chance.choice(sorted(labels.glob("*.parquet")))
        content = bytearray(path.read_bytes())
        self.counts["shard"] += 1
        how = self._chance.choice(("gone", "cut", "bit"))
        if how == "gone":
            path.unlink()
            return
        if how == "cut":
            del content[self._chance.randrange(len(content)) :]
        else:  # in the data of a column that selecting reads
            group = pq.read_metadata(io.BytesIO(content)).row_group(0)
            columns = {
                group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)
            }
            column = columns["confidence"]
            place = column.data_page_offset + column.total_compressed_size - 3
            content[place] ^= 1 << self._chance.randrange(8)
        path.write_bytes(bytes(content))

    def _fill_disk(self) -> None:
        """A start on a disk with room for a line, but not for a checkpoint."""
        filler = self.workdir / "filler"
        free = shutil.disk_usage(self.workdir).free
        with filler.open("wb") as file:
            file.write(bytes(max(0, free - 2**17)))
        status = self._wait(self._start())
        assert status == 1, self._said()
        said = self._output.read_text()
        assert "could not be saved" in said and "Make room" in said or "No space left" in said, said
        filler.unlink()
        self.counts["disk full"] += 1


def outcome(workdir: pathlib.Path) -> dict:
    """All that has to come out the same, bit for bit."""
    found, workdir = {}, epath.Path(workdir)
    for directory in sorted(workdir.glob("iteration_*")):
        name = directory.name
        found[f"{name} parameters"] = trees.digest(checkpoint.load_model(directory)[1])
        found[f"{name} evaluation"] = (directory / "eval.json").read_text()
        lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
        found[f"{name} losses"] = [(line["step"], line["train/loss"]) for line in lines]
        for path in (directory / "labels").glob("*.parquet"):
            found[f"{name} {path.name}"] = path.read_bytes()
        path = directory / "selection" / table_lib.NAME
        if path.exists():
            found[f"{name} selection"] = path.read_bytes()
    return found
