"""One page of a workdir, running or ended: `report.html`, and its numbers as `report.json`."""

import contextlib
import importlib
import os
import pathlib

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.progress import say
from ns_jax.report import collected as collected_lib
from ns_jax.report import contents, page

ERRORS = "NS_JAX_REPORT_ERRORS"  # "raise": in selftrain too, where they are said otherwise
PAGE, NUMBERS = "report.html", "report.json"


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Writes both files; returns the content of `report.json`.

    Where the workdir has a config of its own, that counts. Raises InputError if there is nothing to
    report on.
    """
    content = write(config, workdir)
    say(content["verdict"]["text"])
    say(f"the report: {workdir / PAGE}")
    return content


def write(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """As `run`, without a word."""
    found = collected_lib.collect(workdir)
    config = workdir_lib.with_values(config, found.config or {})
    report = contents.build(found, config, _defaults())
    files.write(os.fspath(workdir / PAGE), page.render(report).encode(errors="backslashreplace"))
    workdir_lib.write_json(workdir / NUMBERS, report.content)
    return report.content


def _defaults() -> dict | None:
    """Every key's, by its name with dots; None where the program is installed without configs."""
    with contextlib.suppress(ImportError, AttributeError):
        return config_lib.flat(importlib.import_module("configs.base").get_config())
    return None
