"""What lies in a directory: folders and files, without junk, loops of links and locked folders."""

import dataclasses
import os
from collections.abc import Iterator

from ns_jax import files
from ns_jax.buckets import reads
from ns_jax.errors import MissingFileError

# Directories that archives, disks and network storage leave; those that begin with a dot, as
# .ipynb_checkpoints, are passed over whatever they are called.
JUNK = frozenset(
    {"__macosx", "__pycache__", "lost+found", "found.000"}  # archives, Python, repairs of disks
    | {"$recycle.bin", "recycler", "system volume information"}  # Windows
    | {"@eadir", "#recycle", "#snapshot", "@tmp"}  # Synology
    | {"@recycle", "@recently-snapshot", "@__thumb"}  # QNAP
)


@dataclasses.dataclass
class Listing:
    folders: list[str]  # names of the sub-directories, sorted
    keys: list[str]  # all files below the directory, relative to it, sorted
    unread: list[str]  # what could not be looked into, and why


def is_junk(name: str) -> bool:
    """Whether a file or directory of that name is nobody's data."""
    return name.startswith(".") or name.lower() in JUNK


def listing(root: str) -> Listing:
    """Raises FileNotFoundError if `root` is no directory, OSError if it cannot be looked into."""
    if not files.is_directory(root):
        raise MissingFileError(f"{root} is not a directory")
    unread: list[str] = []
    walk = _in_bucket(root) if files.is_remote(root) else _on_disk(root, unread)
    top: list[str] = []
    found: list[str] = []
    for inside, folders, names in walk:
        folders[:] = [name for name in folders if not is_junk(name)]
        if not inside:
            top = sorted(folders)
        prefix = f"{inside}/" if inside else ""
        found.extend(prefix + name for name in names if not is_junk(name))
    return Listing(top, sorted(found, key=lambda key: key.split("/")), sorted(unread))


def _on_disk(root: str, unread: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """(directory relative to `root`, its folders, which are gone into, its files).

    Links to directories are followed, for data sets are often made of them, unless they lead to a
    directory that they lie in.
    """
    todo = [""]
    while todo:
        inside = todo.pop()
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(os.path.join(root, inside)) as entries:
                for entry in entries:
                    if not _is_directory(entry):
                        names.append(entry.name)
                    elif entry.is_symlink() and _leads_back(root, inside, entry.path):
                        unread.append(f"{os.path.join(inside, entry.name)}: a loop of links")
                    else:
                        folders.append(entry.name)
        except OSError as error:  # locked, or gone since its name was read
            if not inside:
                raise
            unread.append(f"{inside}: {error.strerror}")
        yield inside, folders, names
        todo += [os.path.join(inside, name) for name in folders]


def _is_directory(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, which is reported as a file that cannot be read
        return False


def _leads_back(root: str, inside: str, link: str) -> bool:
    above = [root]
    for name in filter(None, inside.split("/")):
        above.append(os.path.join(above[-1], name))
    return any(os.path.samefile(link, directory) for directory in above)


def _in_bucket(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    client = files.filesystem(root)
    base = client._strip_protocol(root)
    inside: dict[str, tuple[set[str], list[str]]] = {"": (set(), [])}  # by directory
    for found in reads.whole_answer(client, root, "find", refresh=True):
        path = found[len(base) :].strip("/")
        folder, _, name = path.rpartition("/")
        if found.endswith("/") or not name:  # an object that stands for a directory
            continue
        names = inside.setdefault(folder, (set(), []))[1]
        names.append(name)
        while folder:  # and all directories on the way
            above, _, own = folder.rpartition("/")
            known = inside.setdefault(above, (set(), []))[0]
            if own in known:
                break
            known.add(own)
            folder = above
    todo = [""]
    while todo:
        folder = todo.pop()
        folders, names = inside.get(folder, (set(), []))
        left = list(folders)
        yield folder, left, names  # whoever takes it removes those that are not gone into
        todo += [f"{folder}/{name}".lstrip("/") for name in left]
