"""What is read of a stranger's files: nothing that waits, grows without measure, or asks for what isn't theirs."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plainloop.errors import UserError
from plainloop.runs.directory import RunDir
from plainloop.runs.files import load_json, load_yaml, read_regular


def chain(line: str, first: str = "", indent: str = "") -> str:
    """Forty keys, each of which is made of the next."""
    lines = [indent + line.replace("NEXT", f"a{number + 1}").replace("THIS", f"a{number}") for number in range(40)]
    return "\n".join([*([first] if first else []), *lines, f"{indent}a40: 2\n"])


def test_a_runs_yaml_is_read_as_it_was_written(tmp_path):
    """References to the config itself, and the two resolvers that plainloop's own configs have."""
    written = {
        "optimizer": {"lr": 0.1, "_target_": "torch.optim.SGD"},
        "scheduler": {"max_lr": "${times:10,${optimizer.lr}}", "base": "${.max_lr}"},
        "data": {"task": "${oc.select:choices.task,auto}", "path": "${paths.data}/a b.csv"},
        "paths": {"data": "data"},
        "escaped": "\\${name}",
        "sizes": [1, "${optimizer.lr}"],
        "first": "${sizes[1]}",
    }
    path = tmp_path / "composed.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(written)))
    assert OmegaConf.to_container(load_yaml(path)) == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (chain("THIS: ${NEXT}${NEXT}"), "more than 16,777,216 characters"),
        (chain("THIS: ${.NEXT}${.NEXT}", "m:", "  "), "more than 16,777,216 characters"),
        (chain("THIS: {p: '${NEXT}', q: '${NEXT}'}"), "more than 16,777,216 characters"),
        (chain("THIS: ['${NEXT}', '${NEXT}']"), "more than 16,777,216 characters"),
        (chain("THIS: ${oc.select:NEXT}${oc.select:NEXT,z}"), "more than 16,777,216 characters"),
        (chain("THIS: ${times:${NEXT},${NEXT}}"), "more than 16,777,216 characters"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "line 1: anchors and aliases"),
        ("a: ${oc.env:HOME}\n", "a: only what a run's config has itself"),
        (chain("THIS: {x: '${NEXT.x}${NEXT.x}'}").replace("a40: 2", "a40: {x: 2}\na0.x: z"), "more than 16,777,216"),
        ("[" * 100_000, "can't be read"),
        ("a: {b: '${oc.decode:${oc.env:HOME}}'}\n", "a.b: only what a run's config has itself"),
        ("a: b\nc: ${${a}}\n", "c: only what a run's config has itself"),
        ("a: b\nc: ${x.${a}}\n", "c: only what a run's config has itself"),
        ("a: ${oc.create:{b:1}}\n", "a: only what a run's config has itself"),
        ("a: [1,\nb: 2\n", r"isn't YAML \(line \d\)"),
        ("a: " + "x" * (5 << 20), "5,242,883 bytes, and may have 4,194,304"),
        ("a: !!python/object/apply:os.system [date]\n", "isn't YAML"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_yaml_that_would_grow_or_ask_for_more_is_refused(text, said, tmp_path):
    path = tmp_path / "composed.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_yaml(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 400


def test_a_secret_file_is_not_shown(tmp_path):
    """Where composed.yaml leads to another file, its content isn't told."""
    secret = tmp_path / "passwd"
    secret.write_text("root:x:0:0:secret words\nuser:x:1:1:more: of: them\n" * 50)
    with pytest.raises(UserError) as error:
        load_yaml(secret)
    assert "secret" not in str(error.value).replace(str(secret), "")


def test_only_regular_files_are_read(tmp_path):
    """A pipe is not waited for, and a device not read to its end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="no regular file"):
            read_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    (tmp_path / "file").write_bytes(b"abc")
    assert read_regular(tmp_path / "file", 3) == b"abc"
    with pytest.raises(ValueError, match="3 bytes, and may have 2"):
        read_regular(tmp_path / "file", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("{", "line 1 isn't JSON"),
        ("[" * 9999, "can't be read"),
        ("[1]", "no object"),
        (None, "is missing"),
    ],
    ids=["empty", "cut off", "deep", "a list", "missing"],
)
def test_json_that_is_none_is_told(text, said, tmp_path):
    path = tmp_path / "metrics.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"{said}.* Delete it."):
        load_json(path, "Delete it.")


def test_a_run_directory_holds_its_own_files(tmp_path):
    """Links, also those that lead nowhere or into the directory itself, and what is no file at all."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("a: 1\n")
    run_dir = RunDir(run)
    run_dir.checked()

    def planted(name: str, plant) -> None:
        path: Path = run / name
        plant(path)
        with pytest.raises(UserError, match=str(path)):
            run_dir.checked()
        path.unlink()

    planted("train.log", lambda path: path.symlink_to(tmp_path / "bashrc"))
    planted("checkpoints/best.pt", lambda path: path.symlink_to("../config.yaml"))
    planted("tensorboard", lambda path: path.symlink_to(tmp_path, target_is_directory=True))
    planted("checkpoints/step-3.pt", os.mkfifo)
    run_dir.checked()


def test_what_other_tools_put_into_a_run_directory_is_theirs(tmp_path):
    """Experiment trackers link to their newest run."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/latest-run").symlink_to("run-1")
    assert RunDir(tmp_path).checked().path == tmp_path
