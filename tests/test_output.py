"""What is written to disk: whole or not at all, with ordinary permissions; and one process at a time in a folder."""

import os
import stat
import subprocess
import sys

import pytest
from made_limits import full_disk

from avsr.errors import AvsrError, BadOutput
from avsr.output import append_lines, locked, whole_file, write_file, write_files

# --- files ---

def test_a_file_appears_whole_with_the_permissions_of_every_new_file(tmp_path):
    (tmp_path / "other").write_text("")
    with whole_file(tmp_path / "a.bin") as fresh:
        fresh.unlink()
        os.close(os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600))         # as safetensors does
        fresh.write_bytes(b"all of it")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"all of it"
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "other"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, RuntimeError])
def test_what_fails_leaves_what_was_there(tmp_path, error):
    def fail():
        with whole_file(tmp_path / "a.bin") as fresh:
            fresh.write_bytes(b"half")
            raise error

    (tmp_path / "a.bin").write_bytes(b"before")
    with pytest.raises(error):
        fail()
    assert (tmp_path / "a.bin").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_of_several_files_all_appear_or_none(tmp_path):
    write_files({tmp_path / "new" / "a": "äb", tmp_path / "new" / "b": b"\x00"}, str)
    assert (tmp_path / "new" / "a").read_bytes() == "äb".encode()
    with full_disk(10), pytest.raises(BadOutput, match=r"^sorry: File too large$"):
        write_files({tmp_path / "new" / "b": "short", tmp_path / "new" / "c": "x" * 11}, lambda reason: f"sorry: {reason}")
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "b"]
    assert (tmp_path / "new" / "b").read_bytes() == b"\x00"


def test_a_name_of_255_letters_can_be_written(tmp_path):
    write_file(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, reason in (("pipe", "Not a regular file"), ("folder", "Is a directory")):
        says = rf"{name}: it cannot be written \({reason}\)\.  Make room, or choose another folder\."
        with pytest.raises(BadOutput, match=says):
            write_file(tmp_path / name, "text")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_lines_are_added_whole_after_what_is_whole(tmp_path):
    path = tmp_path / "lines"
    append_lines(path, "one\n")
    append_lines(path, "two\nthree\n")
    with path.open("a") as file:
        file.write("a kill came in the mid")
    append_lines(path, "four\n")
    assert path.read_text() == "one\ntwo\nthree\nfour\n"
    with full_disk(25), pytest.raises(OSError, match="File too large"):
        append_lines(path, "a line that does not fit\n")
    assert path.read_text() == "one\ntwo\nthree\nfour\n"
    path.write_text("no end of a line" * 10_000)
    append_lines(path, "one\n")
    assert path.read_text() == "one\n"


def test_what_a_kill_left_of_a_file_that_one_process_writes_is_written_over(tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(b"left by a kill")
    (tmp_path / ".a.bin.part").chmod(0o600)
    with whole_file(tmp_path / "a.bin", alone=True, sync=True) as fresh:
        assert fresh.read_bytes() == b""
        fresh.write_bytes(b"new")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "other"]


# --- locks ---

def test_a_folder_is_held_by_one_process_and_told_by_whom(tmp_path):
    with locked(tmp_path / "run", "avsr train"):
        with pytest.raises(AvsrError) as caught, locked(tmp_path / "run", "avsr train"):
            pass
        assert str(caught.value) == (f"{tmp_path / 'run'}: another avsr train is at work in it (process {os.getpid()} on "
                                     f"{os.uname().nodename}).  Wait for it, or choose another folder.")
        with locked(tmp_path / "run", "avsr report"):        # which writes other files
            pass
    assert os.listdir(tmp_path / "run") == []
    with locked(tmp_path / "run", "avsr train"):
        pass


def test_a_process_that_is_killed_leaves_a_lock_that_stops_nobody(tmp_path):
    code = (f"from avsr.output import locked; import sys, time\nwith locked({str(tmp_path)!r}, 'avsr train'):\n"
            "    print('held', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(AvsrError, match=f"at work in it \\(process {process.pid} on"), locked(tmp_path, "avsr train"):
        pass
    process.kill()
    process.communicate()
    assert os.listdir(tmp_path) == [".avsr-train.lock"]
    with locked(tmp_path, "avsr train"), full_disk(), locked(tmp_path, "avsr report"):
        pass
    assert os.listdir(tmp_path) == []


def test_where_no_folder_can_be_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with (pytest.raises(BadOutput, match=r"file/run: it cannot be written \(Not a directory\)\.  Choose another folder\."),
          locked(tmp_path / "file" / "run", "avsr train")):
        pass
