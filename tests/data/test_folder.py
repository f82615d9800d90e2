"""folder: what counts as an image, and files that cannot be read, which stop nothing."""

import os
import socket

import pytest

from ns_jax import files
from ns_jax.data import bad_images, decoding, endings, headers
from ns_jax.data import open as open_lib
from ns_jax.data import signatures as signatures_lib
from tests.data import made


def open_source(root):
    return open_lib.open_source(f"folder:{root}", labels_per_class=5, seed=0)


def write(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.encoded(0) if data is None else data)


def keys(source):
    return [source[i]["key"] for i in range(len(source))]


def bad(source):
    """The images that cannot be decoded, as they are listed."""
    found = bad_images.BadImages(source, max_fraction=1.0)
    for index in range(len(source)):
        try:
            decoding.decode(source[index]["image"])
        except decoding.BadImageError:
            found.add([index])
    return [line.strip() for line in found.lines()]


def dead_link(path):
    path.symlink_to("nowhere.jpg")


def loop(path):
    path.symlink_to(path.name)


def mutual_loop(path):
    path.symlink_to("other.jpg")
    path.with_name("other.jpg").symlink_to(path.name)


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def a_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


def locked(path):
    write(path)
    path.chmod(0)


def to_a_long_name(path):
    path.symlink_to("x" * 300)


UNREADABLE = [dead_link, loop, mutual_loop, pipe, endless, a_socket, locked, to_a_long_name]


@pytest.fixture
def locks(monkeypatch):
    """Files of mode 0 are locked for root as well."""
    original = os.open

    def refuse(path, flags, *arguments, **names):
        if isinstance(path, str) and os.path.isfile(path) and not os.stat(path).st_mode & 0o777:
            raise PermissionError(13, "Permission denied", path)
        return original(path, flags, *arguments, **names)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("make", UNREADABLE)
def test_a_file_that_cannot_be_read_keeps_its_place(tmp_path, capsys, locks, make, table):
    for name in ("cat/a.jpg", "cat/z.jpg", "dog/a.jpg"):
        write(tmp_path / name)
    make(tmp_path / "cat" / "m.jpg")
    if table:
        names = ("cat/a.jpg", "cat/m.jpg", "cat/z.jpg", "dog/a.jpg")
        lines = ["file,label", *(f"{name},{name[:3]}" for name in names)]
        (tmp_path / "labels.csv").write_text("\n".join(lines))
    source = open_source(tmp_path)
    listed = [name for name in keys(source) if name != "cat/other.jpg"]
    assert listed == ["cat/a.jpg", "cat/m.jpg", "cat/z.jpg", "dog/a.jpg"]
    assert source.class_names == ("cat", "dog") and source[1]["label"] == 0
    assert bad(source)[0] == "cat/m.jpg: empty file" and len(bad(source)) == len(source) - 3
    assert "cannot be read and count as bad images: cat/m.jpg" in capsys.readouterr().err
    again = open_source(tmp_path)
    assert again.fingerprint == source.fingerprint
    (tmp_path / "cat" / "m.jpg").unlink()
    write(tmp_path / "cat" / "m.jpg")
    assert open_source(tmp_path).fingerprint != source.fingerprint


def test_a_file_that_vanishes_while_the_source_is_opened_is_a_bad_image(tmp_path, monkeypatch):
    for name in "abc":
        write(tmp_path / f"{name}.jpg")
    original = signatures_lib.of

    def late(*arguments):
        (tmp_path / "b.jpg").unlink()
        return original(*arguments)

    monkeypatch.setattr(signatures_lib, "of", late)
    assert bad(open_source(tmp_path)) == ["b.jpg: empty file"]


def test_what_the_machine_lacks_is_no_bad_image(tmp_path, monkeypatch):
    write(tmp_path / "a.jpg")

    def refuse(path, *_):
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr(files, "_open_regular", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        open_source(tmp_path)


def test_what_a_table_names_and_is_not_there_is_an_error(tmp_path):
    write(tmp_path / "a.jpg")
    dead_link(tmp_path / "b.jpg")
    (tmp_path / "labels.csv").write_text("file,label\na.jpg,1\nb.jpg,1\nc.jpg,1\nd/e.jpg,1\n")
    with pytest.raises(ValueError, match=r"2 files of .* do not exist: c.jpg, d/e.jpg"):
        open_source(tmp_path)


def test_loops_of_directories_and_locked_ones_are_said(tmp_path, capsys, monkeypatch):
    for name in ("cat/a.jpg", "dog/deep/b.jpg", "dog/locked/c.jpg"):
        write(tmp_path / name)
    (tmp_path / "cat" / "up").symlink_to("..")
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "dog" / "deep" / "cat").symlink_to("../../cat")  # no loop: it is followed
    original = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_source(tmp_path)
    assert keys(source) == ["cat/a.jpg", "dog/deep/b.jpg", "dog/deep/cat/a.jpg"]
    shown = capsys.readouterr().err
    assert "cat/up: a loop of links" in shown and "self: a loop of links" in shown
    assert "dog/locked: Permission denied" in shown
    (tmp_path / "dog" / "deep" / "b.jpg").unlink()
    (tmp_path / "dog" / "deep" / "cat").unlink()
    with pytest.raises(ValueError, match=r"hold no files: dog; .*locked: Permission denied"):
        open_source(tmp_path)


@pytest.mark.parametrize("table", [False, True])
def test_names_that_are_not_utf_8_or_not_printable(tmp_path, capsys, table):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    names = [b"a\x1b[31m\n.jpg", b"b\xff.jpg", b"b\\xff.jpg", "ä.jpg".encode()]
    for number, name in enumerate(names):
        with open(folder + b"/" + name, "wb") as file:
            file.write(made.encoded(number))
    os.symlink(b"nowhere", folder + b"/z\xff.jpg")
    if table:
        lines = [b'"caf\xe9/%s",x' % name for name in (*names, b"z\xff.jpg")]
        (tmp_path / "labels.csv").write_bytes(b"\n".join([b"file,label", *lines]))
    source = open_source(tmp_path)
    images = [source[i]["image"] for i in range(len(source))]
    assert sorted(images) == sorted([*(made.encoded(number) for number in range(4)), b""])
    assert source.class_names == (("x",) if table else ("caf\\xe9",))
    shown = dict(zip(images, keys(source), strict=True))
    assert shown[made.encoded(1)] == "caf\\xe9/b\\xff.jpg"
    assert shown[made.encoded(3)] == "caf\\xe9/ä.jpg"
    for key in keys(source):
        key.encode()
    assert bad(source) == ["caf\\xe9/z\\xff.jpg: empty file"]
    said = capsys.readouterr().err
    assert "caf\\xe9/z\\xff.jpg (No such file or directory)" in said


def test_what_is_no_image_is_passed_over_and_counted_once(tmp_path, capsys):
    for name in ("cat/a.JPG", "cat/b.Jpeg", "dog/c.png", "dog/d.tiff"):
        write(tmp_path / name)
    for name in ("Thumbs.db", "cat/Thumbs.db", "dog/desktop.ini", "README.md", "cat/a.xml"):
        write(tmp_path / name, b"\0\1other")
    write(tmp_path / "cat" / "hash0123")
    write(tmp_path / "LICENSE", b"Permission is hereby granted")
    write(tmp_path / "class_names.txt", b"cat")  # ours
    write(tmp_path / "dog" / "BMW", b"BM is no bitmap without a zero" * 9)
    for folder in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "lost+found"):
        for inside in ("", "cat/", "dog/"):
            write(tmp_path / inside / folder / "x.jpg")
            write(tmp_path / inside / folder / "._a.JPG", b"x")
    write(tmp_path / "System Volume Information" / "x.jpg")
    source = open_source(tmp_path)
    expected = ["cat/a.JPG", "cat/b.Jpeg", "cat/hash0123", "dog/c.png", "dog/d.tiff"]
    assert keys(source) == expected and source.class_names == ("cat", "dog")
    open_source(tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert lines == [
        f"folder:{tmp_path}: passed over 2 .db, 1 .ini, 1 .md, 1 .xml files and 2 files without an "
        "ending that are no images"
    ]


def test_images_alone_in_a_flat_directory(tmp_path):
    for name in ("b.png", "README.md", "notes.txt", "c"):
        write(tmp_path / name, b"text" if "." in name and "png" not in name else None)
    assert keys(open_source(tmp_path)) == ["b.png", "c"]
    write(tmp_path / "d", b"")  # where some have no ending it may have been one of them
    assert keys(open_source(tmp_path)) == ["b.png", "c", "d"]


def test_kinds_of_images_that_are_not_read_are_bad_ones(tmp_path):
    write(tmp_path / "a.HEIC", b"\0\0\0\x18ftypheic\0\0")
    write(tmp_path / "b", b"\0\0\0\x18ftypheic\0\0")
    write(tmp_path / "c.svg", b"<svg/>")
    assert bad(open_source(tmp_path)) == [f"{n}: not an image" for n in ("a.HEIC", "b", "c.svg")]


def test_a_folder_of_junk_alone_is_empty(tmp_path):
    write(tmp_path / "cat" / "a.jpg")
    write(tmp_path / "dog" / "Thumbs.db", b"x")
    write(tmp_path / "dog" / "__MACOSX" / "a.jpg")
    with pytest.raises(ValueError, match="1 of 2 class folders .* hold no files: dog"):
        open_source(tmp_path)
    (tmp_path / "docs").mkdir()
    write(tmp_path / "docs" / "README.md", b"x")
    with pytest.raises(ValueError, match="is empty but for 1 .md files"):
        open_source(tmp_path / "docs")


def test_a_table_decides_what_is_listed(tmp_path, capsys):
    listed = ["a.jpg", "b.weird", "c", ".hidden/d.jpg", "__MACOSX/e.jpg"]
    for name in (*listed, "f.jpg", "README.md"):
        write(tmp_path / name)
    lines = ["file,label", *(f"{name},x" for name in listed)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert keys(open_source(tmp_path)) == listed
    assert "passed over" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.b.JPG", "jpg"),
        ("n01440764", ""),
        ("take 1.5", ""),
        ("a.", ""),
        ("Dr. Who at home", ""),
        ("a.jp2", "jp2"),
        ("photo.jpg_large", ""),
        ("é.ÿpg", ""),
    ],
)
def test_endings(name, ending):
    assert endings.of(name) == ending


def test_every_ending_that_is_read_is_of_a_kind_that_is_read():
    import cv2

    for ending in ("jpg", "jpe", "png", "webp", "bmp", "dib", "tiff", "ppm", "jp2", "avif"):
        assert ending in endings.READ
        data = cv2.imencode(f".{ending}", made.image(0))[1].tobytes()
        assert headers.is_image(data[: files.BEGINNING])
    assert not endings.READ & endings.UNREAD
