"""Files and folders that are written whole or not at all."""

import errno

import pytest
from safetensors import SafetensorError

from course_utils import CourseError
from course_utils.files import writing, written_whole
from course_utils.messages import Text


def test_a_file_takes_the_place_of_the_older_one_when_it_is_whole(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with written_whole(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_a_folder_gets_its_name_when_it_is_whole_and_holds_nothing_of_a_killed_attempt(tmp_path):
    folder = tmp_path / "a"
    (tmp_path / "a.part").mkdir()
    (tmp_path / "a.part" / "half").write_text("")
    with written_whole(folder) as part:
        part.mkdir()
        (part / "file").write_text("")
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == [folder] and [file.name for file in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_broken_off_leaves_the_old_and_nothing_else(tmp_path, error, is_folder):
    file = tmp_path / "a"
    file.write_text("old")
    with pytest.raises(error), written_whole(file) as part:
        if is_folder:
            part.mkdir()
            part /= "file"
        part.write_text("half")
        raise error
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.part"), "No space left on device"),
        (OSError("the device is gone"), "the device is gone"),
        (SafetensorError("I/O error: No space left"), "I/O error: No space left"),
    ],
)
def test_what_the_disk_refuses_is_told_in_both_languages_with_a_cure(tmp_path, error, reason):
    file = tmp_path / "a"
    with pytest.raises(CourseError) as caught, written_whole(file) as part:
        part.write_text("half")
        raise error
    assert caught.value.text.en.startswith(f"{file} could not be written ({reason}): close it in other programs, make")
    assert caught.value.text.zh.startswith(f"{file} 写不进去（{reason}）：请在别的程序里关闭它")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CourseError, match=rf"could not be written \({reason}\): wait\.\n.*：请稍候。"):
        with writing(file, Text("wait.", "请稍候。")):
            raise error


def test_a_folder_that_is_missing_or_a_file_is_told_too(tmp_path):
    (tmp_path / "file").write_text("")
    for parent in ("missing", "file"):
        with pytest.raises(CourseError, match=f"{parent}.a could not be written"):
            with written_whole(tmp_path / parent / "a") as part:
                part.write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
