"""A run folder whose settings or fingerprints are gone is never read as another study's."""

import pytest
from study_toys import opened, result

from mechsteer.errors import ConfigError
from mechsteer.files import read_record, write_record


def stage(folder, name="first"):
    return folder / "stages" / f"{name}.json"


def edited(path, **changes):
    content = read_record(path)
    assert content is not None
    write_record(path, {key: value for key, value in (content | changes).items() if value is not None})


def test_without_config_a_folder_keeps_the_settings_of_its_stages(tmp_path):
    result(tmp_path, [], "seed=7", "adapter.lr=0.5")
    (tmp_path / "config.json").unlink()
    calls, said = [], []
    assert result(tmp_path, calls, said=said)["of"]["seed"] == 7
    assert calls == []
    assert "config.json is gone: settings are those that its stages were made with" in said[0]


def test_another_study_in_it_is_named_and_reruns(tmp_path):
    result(tmp_path, [], "seed=7")
    (tmp_path / "config.json").unlink()
    calls, said = [], []
    assert result(tmp_path, calls, "seed=3", said=said, model="another")["of"]["seed"] == 3
    assert calls == ["first", "second"]
    assert any("first runs again: it was made with another model" in text for text in said)
    assert f"{tmp_path}: now seed=3" in said


def test_stages_that_contradict_each_other_are_refused(tmp_path):
    result(tmp_path, [], "adapter.lr=0.5")
    (tmp_path / "config.json").unlink()
    content = read_record(stage(tmp_path, "second"))
    assert content is not None
    edited(stage(tmp_path, "second"), made_from=content["made_from"] | {"keys": {"seed": 9}})
    with pytest.raises(ConfigError, match=r"second does not tell the settings that the others do(?s:.*)another folder"):
        result(tmp_path, [])
    assert result(tmp_path, [], "seed=2", again={"first", "second"})["of"]["seed"] == 2


@pytest.mark.parametrize("lost", ["model", "keys", "contents", "reads"])
def test_a_stage_that_does_not_tell_what_it_was_made_from_is_not_read(tmp_path, lost):
    result(tmp_path, [])
    content = read_record(stage(tmp_path))
    assert content is not None
    edited(stage(tmp_path), made_from={key: v for key, v in content["made_from"].items() if key != lost})
    calls, said = [], []
    with opened(tmp_path, calls, said=said) as run:
        assert "first" not in run.finished()
        run.result("first")
    assert calls == ["first"]
    told = "first runs again: its file does not tell which model and settings it was made with"
    assert told in said


def test_a_stage_without_any_of_it_is_not_read(tmp_path):
    result(tmp_path, [])
    edited(stage(tmp_path), made_from=None)
    calls = []
    result(tmp_path, calls)
    assert calls == ["first"]
    (tmp_path / "config.json").unlink()
    edited(stage(tmp_path), made_from=None)
    with pytest.raises(ConfigError, match="first does not tell the settings"):
        result(tmp_path, calls)
