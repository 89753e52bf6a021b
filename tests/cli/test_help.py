"""--help shows every setting of every verb."""

from dataclasses import fields, is_dataclass
import inspect
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


@pytest.mark.parametrize("verb", cli.VERBS)
def test_it_says_what_the_imported_classes_say(verb, capsys):
    """Read out of the source, it follows imports and inheritance as Python does."""
    cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    schemas = [schema for schema in reversed(config.schema_of(verb).__mro__) if is_dataclass(schema)]
    for schema in schemas:
        schemas += [one for one in (f.type for f in fields(schema)) if isinstance(one, type) and is_dataclass(one) and one not in schemas]
    sources = [inspect.getsource(schema).split("\n    def ")[0].split("\n    # config")[0].rstrip() for schema in schemas]
    assert shown.rstrip("\n").endswith("\n\n".join(sources))


def test_it_waits_for_no_library():
    code = "import sys; from hires import cli; cli.main(['train', '--help'])\n"
    code += "print(*{'torch', 'hydra', 'numpy'} & set(sys.modules), file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == "\n"


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
