"""--help shows every setting of every verb."""

from dataclasses import fields

import pytest

from hires import cli, config


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_setting_is_shown(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for field in fields(config.SCHEMAS[verb]):
        assert f"    {field.name}: " in shown, field.name
    if verb == "train":
        assert "hang_timeout: " in shown and "channels_base: " in shown  # settings of settings
