"""--help shows every setting of every verb."""

from dataclasses import fields
import subprocess
import sys

import pytest

from hires import cli, config


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_setting_is_shown(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for field in fields(config.schema_of(verb)):
        assert f"    {field.name}: " in shown, field.name
    if verb == "train":
        assert "hang_timeout: " in shown and "channels_base: " in shown  # settings of settings


@pytest.mark.parametrize(
    ("verbs", "also"), [({"train": "experiment=digits"}, set()), ({"prepare": "out=data", "inspect": "data=data"}, {"torch"})]
)
def test_settings_are_read_without_what_only_some_verbs_need(verbs, also):
    """Half of the start of every process, and of the checks before a job, if one of them came in; most of that of a preparation."""
    heavy = {"torchvision", "sklearn", "scipy", "matplotlib", "deepspeed", "torch_fidelity", "onnxruntime", "jinja2", "wandb"} | also
    load = "\n".join(f"hires.config.load({verb!r}, [{setting!r}])" for verb, setting in verbs.items())
    script = f"import sys, hires.config\n{load}\nprint(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_garbage_is_collected_while_a_verb_runs(forks, clean_env):
    """A process of a command does without while it imports."""
    code = (
        "import gc, sys; from hires import cli; from hires.verbs import plan\n"
        "gc.unfreeze(); gc.disable()\n"
        "plan.run = lambda config: sys.exit(print(gc.isenabled(), gc.get_freeze_count() > 1000))\n"
        "sys.argv = ['hires', 'plan', 'experiment=digits']; cli.main()"
    )
    done = forks.run([sys.executable, "-c", code], env=clean_env, timeout=100)
    assert done.stdout == "True True\n", done.stderr
