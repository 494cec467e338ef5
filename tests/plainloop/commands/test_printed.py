"""What is printed to be typed can be typed: in a shell, and in Hydra's grammar."""

import shlex
from pathlib import Path

import pytest

import plainloop
from plainloop.commands.evaluate import evaluate_config
from plainloop.config.compose import compose, grammatical
from plainloop.config.keys import override
from plainloop.config.schema import EvaluateConfig
from plainloop.errors import UserError
from plainloop.places import quoted
from tests.conftest import one_in

FOLDERS = ("plain", "größe", "写真", "two words", "it's", 'say "so"', "a,b", "[x]", "{y}", "(z)", "a=b", "a;b", "a#b",
           "~home", "a&b", "$HOME", "back`tick", "null", "1e5", "a:b", "end\\", "100%", "${name}", "a*b?")  # fmt: skip


@pytest.mark.parametrize("folder", one_in(15, FOLDERS))
def test_a_runs_next_commands_can_be_typed_as_they_stand(folder, capsys):
    """Whatever its folder is called."""
    words = ["trainer.max_steps=1", "logger=none", override("name", folder)]
    run = plainloop.train(words)
    assert run.path.parent.name == folder
    shown = [line.strip().removeprefix("next").strip() for line in capsys.readouterr().out.splitlines()]
    evaluate, resume = (shlex.split(line)[2:] for line in shown if line.startswith("python "))
    assert evaluate_config(compose(evaluate, EvaluateConfig), evaluate)["test/loss"] == run.metrics["test/loss"]
    longer = [word.replace("trainer.max_epochs=60", "trainer.max_steps=2") for word in resume]
    assert plainloop.train(longer).path == run.path


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_word_means_the_same_in_a_shell_and_in_hydra(folder):
    word = override("name", folder)
    assert shlex.split(quoted(word)) == [word]
    assert compose([word]).name == folder


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data.target=цена", "цена"),
        ("data.path=größe/写真", "größe/写真"),
        ("data.path=a#b.csv", "a#b.csv"),
        ("data.path=~/x.csv", "~/x.csv"),
        ("data.path=/home/me/run(1).csv", "/home/me/run(1).csv"),
        ("data.target=a=b", "a=b"),
        ("data.target=price [EUR]", "price [EUR]"),
        ("data.target=it's", "it's"),
        ("data.target=price €", "price €"),
        ("data.target=share (%)", "share (%)"),
        ("data.target=café", "café"),
        ("data.target='quoted already'", "quoted already"),
        ("data.target=[a,b]", ["a", "b"]),
        ("data.target=5", 5),
        ("data.target=two words", "two words"),
    ],
)
def test_names_as_people_have_them_need_no_quotes_within(typed, meant):
    key = typed.partition("=")[0].partition(".")[2]
    assert compose(["data=table", typed]).data[key] == meant
    assert compose(["data=table", grammatical(typed)]).data[key] == meant


def test_one_value_with_a_comma_is_told_from_a_sweep():
    with pytest.raises(UserError) as caught:
        compose(["data=table", "data.target=cases per 100,000 people"])
    first, second = str(caught.value).splitlines()
    assert "several values make a sweep: add -m" in first
    typed = shlex.split(second.removeprefix("One value that holds a comma is quoted: "))
    assert compose(["data=table", *typed]).data.target == "cases per 100,000 people"


@pytest.mark.slow
def test_a_class_may_be_called_like_a_reference(tmp_path: Path):
    """`${...}` in a class, a column or a word of a vocabulary is text, also when the run goes on."""
    rows = "\n".join(f"{number},{'${oc.env:HOME}' if number % 2 else '${seed}'}" for number in range(40))
    (tmp_path / "t.csv").write_text(f"a${{x}},kind\n{rows}\n")
    run = plainloop.train(["data=table", "data.path=t.csv", "data.target=kind", "trainer.max_steps=2", "logger=none"])
    assert run.config.spec.class_names == ["${oc.env:HOME}", "${seed}"]
    assert run.config.spec.columns["numbers"] == ["a${x}"]
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]
    assert plainloop.train([f"resume={run.path}", "trainer.max_steps=3"]).metrics["steps"] == 3
