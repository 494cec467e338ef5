"""Composition: choosing data chooses what must follow, the command line wins, and every option composes."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from plainloop.config import changes, complaints, compose, keys, options, rules, schema
from plainloop.errors import UserError
from tests.conftest import copy_configs, one_in

YAML_FILES = sorted(options.CONFIGS.glob("**/*.yaml"))
PACKAGE = "# @package _global_\n"


@pytest.fixture
def write_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """`write_config("data/own.yaml", text)` adds a file to a copy of configs/."""
    copy = copy_configs(tmp_path, monkeypatch)
    return lambda name, text: (copy / name).write_text(text)


def targets(cfg: DictConfig, group: str) -> list[str]:
    """The names of what a group's members build, without their packages."""
    return [str(node._target_).rpartition(".")[2] for node in cfg[group].values()]


# --- choosing data chooses what must follow -----------------------------------------------------------------------

MULTICLASS = ("multiclass", "CrossEntropyLoss", ["Accuracy", "F1"], "val/accuracy")
BINARY = ("binary", "BCEWithLogitsLoss", ["Accuracy", "F1", "AUROC"], "val/accuracy")
REGRESSION = ("regression", "MSELoss", ["MAE", "RMSE", "R2"], "val/loss")


@pytest.mark.parametrize(
    ("data", "follows"),
    [
        ("digits", MULTICLASS),
        ("mnist", MULTICLASS),
        ("fashion_mnist", MULTICLASS),
        ("cifar10", MULTICLASS),
        ("mine", MULTICLASS),
        ("breast_cancer", BINARY),
        ("penguins", REGRESSION),
        ("points", REGRESSION),
    ],
)
def test_data_chooses_task_loss_metrics_and_monitor(data, follows):
    """`data=penguins` alone is a regression, with a regression's loss, metrics and monitored quantity."""
    cfg = compose.compose([f"data={data}"])
    loss = cfg.loss._target_.rpartition(".")[2]
    assert (cfg.choices.task, loss, targets(cfg, "metrics"), cfg.monitor) == follows


def test_task_chooses_the_losses_that_fit():
    """`task=binary` brings the loss and the metrics of a binary task, whatever the data said."""
    cfg = compose.compose(["data=digits", "task=binary"])
    assert cfg.choices.task == "binary"
    assert cfg.choices.loss == "bce"
    assert cfg.choices.metrics == "binary"


# --- who wins -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("", "choices.model", "mlp"),
        # the command line beats a data config and its task
        ("data=penguins loss=huber", "loss._target_", "torch.nn.HuberLoss"),
        ("loss=huber data=penguins", "loss._target_", "torch.nn.HuberLoss"),
        ("data=penguins loss=huber", "choices.task", "regression"),
        ("data=penguins loss=huber", "choices.metrics", "regression"),
        ("data=penguins transforms.normalize=none", "transforms.normalize", "none"),
        ("data=mnist split.fractions=[0.5,0.5,0]", "split.fractions", [0.5, 0.5, 0]),
        ("data=penguins monitor=val/rmse", "monitor", "val/rmse"),
        ("data=digits metrics=none monitor=val/loss", "metrics", {}),
        # the command line beats an experiment
        ("experiment=mnist_mlp optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("optimizer.lr=0.5 experiment=mnist_mlp", "optimizer.lr", 0.5),
        ("experiment=mnist_mlp data=fashion_mnist", "data.name", "FashionMNIST"),
        ("experiment=mnist_mlp trainer.max_epochs=2", "trainer.max_epochs", 2),
        ("experiment=linear_regression loss=l1", "choices.loss", "l1"),
        # an experiment beats its data config, and what it doesn't name stays
        ("experiment=mnist_mlp", "transforms.normalize", {"mean": 0.5, "std": 0.5}),
        ("experiment=mnist_mlp", "split.fractions", [0.9, 0.1, 0]),
        ("experiment=linear_regression", "task.standardize", False),
        ("experiment=linear_regression", "choices.loss", "mse"),
        # debugging beats an experiment, and the command line beats debugging
        ("experiment=mnist_mlp debug=fast", "trainer.limit_batches", 3),
        ("experiment=mnist_mlp debug=fast trainer.limit_batches=7", "trainer.limit_batches", 7),
        # words are numbers where they look like numbers
        ("optimizer.lr=1e-3", "optimizer.lr", 0.001),
        ("model.hidden_sizes=[]", "model.hidden_sizes", []),
        ("trainer.max_steps=null", "trainer.max_steps", None),
    ],
)
def test_who_wins(words, key, value):
    """Command line > debug > experiment > data > task, in whatever order the words are typed."""
    cfg = compose.compose(words.split())
    assert keys.plain(OmegaConf.select(cfg, key)) == value


def test_data_beats_its_task(write_config):
    """What a data config sets itself stands against what its task sets."""
    write_config(
        "data/own.yaml",
        PACKAGE + "# Mine.\ndefaults:\n  - override /task: multiclass\n  - override /metrics: none\n\n"
        "data:\n  _target_: plainloop.data.arrays\n  path: mine.npz\n\nmonitor: val/loss\n",
    )
    cfg = compose.compose(["data=own"])
    assert cfg.monitor == "val/loss"
    assert cfg.choices.metrics == "none"
    assert cfg.choices.loss == "cross_entropy"


def test_experiment_beats_data_and_its_task(write_config):
    """An experiment may choose another loss than its data's task does, and monitor something else."""
    write_config(
        "experiment/own.yaml",
        PACKAGE + "# Mine.\ndefaults:\n  - override /data: penguins\n  - override /loss: l1\n\nmonitor: val/rmse\n",
    )
    cfg = compose.compose(["experiment=own"])
    assert cfg.choices.loss == "l1"
    assert cfg.choices.metrics == "regression"
    assert cfg.monitor == "val/rmse"
    assert compose.compose(["experiment=own", "loss=huber"]).choices.loss == "huber"


@pytest.mark.parametrize(
    ("words", "left_behind"),
    [
        ("experiment=mnist_mlp model=cnn", "model.hidden_sizes"),
        ("experiment=mnist_mlp optimizer=sgd", "optimizer.betas"),
        ("experiment=linear_regression data=penguins", "data.inputs"),
        ("data=breast_cancer loss=bce", "loss.label_smoothing"),
        ("scheduler=plateau", "scheduler.T_max"),
    ],
)
def test_nothing_is_left_behind_by_a_swap(words, left_behind):
    """Another option of a group starts from that option's own arguments."""
    cfg = compose.compose(words.split())
    assert OmegaConf.select(cfg, left_behind) is None
    chosen, _, argument = left_behind.partition(".")
    assert argument not in cfg[chosen]


# --- every option and every file ----------------------------------------------------------------------------------

# What must stand beside an option, where it doesn't fit the default data.
BESIDE = {
    "loss=manual_bce": ["data=breast_cancer"],
    **{f"loss={name}": ["data=breast_cancer"] for name in ("bce", "bce_probabilities", "binary_focal", "soft_margin")},
    **{f"loss={name}": ["task=multilabel"] for name in ("multilabel_soft_margin", "multilabel_margin")},
    **{f"loss={name}": ["data=penguins"] for name in ("mse", "l1", "huber", "smooth_l1", "poisson_nll")},
    "loss=gaussian_nll": ["task=gaussian_regression"],
    "metrics=binary": ["data=breast_cancer"],
    "metrics=regression": ["data=penguins"],
    "metrics=multilabel": ["task=multilabel"],
    "metrics=sequence_labelling": ["task=sequence_labelling"],
    "metrics=reconstruction": ["task=reconstruction"],
    "metrics=none": ["monitor=val/loss"],
}
NEEDS = {"scheduler=lambda": "scheduler.lr_lambda", "scheduler=multiplicative": "scheduler.lr_lambda"}
OPTIONS = [
    pytest.param(group, option, id=f"{group}={option}")
    for group, options in options.groups().items()
    for option in options
]


@pytest.mark.parametrize(("group", "option"), one_in(8, OPTIONS))
def test_every_option_composes(group, option):
    """Every file in configs/ can be chosen; `custom` says which key it needs, and composes with it."""
    word = f"{group}={option}"
    words = [word, *BESIDE.get(word, [])]
    needed = f"{group}._target_" if option == "custom" else NEEDS.get(word)
    if needed:
        with pytest.raises(UserError, match=f"{needed}="):
            compose.compose(words)
        words.append(f"{needed}=my_package.Mine")
    cfg = compose.compose(words)
    assert cfg.choices[group] == option
    assert not OmegaConf.missing_keys(cfg)


def test_composing_leaves_nothing_behind():
    """A composition that fails has no influence on the next one."""
    before = compose.compose(["data=penguins"])
    with pytest.raises(UserError):
        compose.compose(["data=penguins", "trainer.max_epochs=many"])
    assert compose.compose(["data=penguins"]) == before


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: str(file.relative_to(options.CONFIGS)))
def test_every_config_file_opens_with_what_it_does(file):
    """The first line is a comment for the reader, or the second where the first is Hydra's package line."""
    lines = file.read_text().splitlines()
    comment = lines[1] if lines[0] == PACKAGE.strip() else lines[0]
    assert comment.startswith("# ")
    assert not comment.startswith("# @")
    assert len(comment.split()) >= 4


def fields_of(section: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every key of a schema, sections flattened; open groups, whose keys are their target's, left out."""
    for item in dataclasses.fields(section):
        if dataclasses.is_dataclass(item.type):
            yield from fields_of(item.type, f"{prefix}{item.name}.")
        elif item.default_factory is not keys.open_section:
            yield prefix + item.name, item


COMMANDS = (schema.Config, schema.EvaluateConfig, schema.ExportConfig)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_has_one_line_of_help(command):
    """A key without help would be missing in `--help`, and unchecked."""
    known, fields = dict(keys.typed_keys(command)), dict(fields_of(command))
    assert len(fields) > 20
    for name, item in fields.items():
        assert name in known, f"{name} has no help"
        assert 10 < len(item.metadata["help"]) <= 120, name
        assert "\n" not in item.metadata["help"], name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_in_its_own_range(command):
    """A schema's defaults pass the checks that it asks of users."""
    rules.validate(compose.compose([], command), command)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_says_when_it_may_change_in_words_that_are_known(command):
    """A slip in `changes=` would take a key away from a command, without a word."""
    for item in (*dataclasses.fields(command), *(item for _, item in fields_of(command))):
        said = (
            f"{item.metadata.get('changes', '')} {item.metadata.get('option', '')} {getattr(item.type, 'changes', '')}"
        )
        assert set(said.split()) <= {"resume", "inexact", "extend", "evaluate"}


MOVED = "paths.* data.path data.val data.test data.download"


@pytest.mark.parametrize(
    ("command", "when", "expected"),
    [
        (
            schema.Config,
            "resume",
            "test report resume resume_inexact trust loader.num_workers loader.pin_memory loader.on_device "
            "loader.prefetch_factor loader.persistent_workers loader.timeout loader.eval.num_workers "
            "loader.eval.prefetch_factor loader.multiprocessing_context trainer.max_epochs trainer.max_steps "
            f"trainer.device trainer.num_threads trainer.log_every checkpoint.* console.* {MOVED}",
        ),
        (schema.Config, "inexact", "loader.batch_size trainer.accumulate_steps"),
        (
            schema.Config,
            "extend",
            "name monitor monitor_mode test report extend trust loader.* trainer.* schedule.* checkpoint.* "
            f"early_stopping.* console.* optimizer.* scheduler scheduler.* logger {MOVED}",
        ),
        (
            schema.EvaluateConfig,
            "evaluate",
            "run input split report checkpoint model.file trust loader.* trainer.device trainer.precision "
            f"trainer.num_threads {MOVED}",
        ),
    ],
)
def test_what_may_change(command, when, expected):
    """All that may differ when a run is continued, extended or evaluated."""
    assert sorted(keys.may_change(command, when)) == sorted(expected.split())


def test_a_config_as_dataclasses_and_back():
    """Sections become their dataclasses; what is decided there is found in the composed config, and nothing else is
    touched: a reference stays one."""
    cfg = compose.compose(["param_groups.head_lr=${optimizer.lr}", "loader.num_workers=null"])
    config, before = schema.as_config(cfg), OmegaConf.to_yaml(cfg)
    assert config.param_groups.head_lr == cfg.optimizer.lr
    assert config.loader.eval.batch_size is None
    assert config.model is cfg.model
    schema.record(config, cfg)
    assert OmegaConf.to_yaml(cfg) == before
    config.loader.num_workers, config.monitor_mode = 3, "max"
    schema.record(config, cfg)
    assert (cfg.loader.num_workers, cfg.monitor_mode) == (3, "max")
    assert OmegaConf.to_yaml(cfg.param_groups) in before.replace("\n  ", "\n")


# --- a config that starts from a run's own ------------------------------------------------------------------------

ALLOWED = ("trainer.max_epochs", "optimizer.*", "scheduler", "scheduler.*", "name")


@pytest.fixture(scope="module")
def saved() -> DictConfig:
    return compose.compose(["model.hidden_sizes=[8]", "seed=7"])


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("trainer.max_epochs=9", "trainer.max_epochs", 9),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("optimizer.weight_decay=0.1", "optimizer.weight_decay", 0.1),
        ("optimizer.eps=1e-7", "optimizer.eps", 1e-7),
        ("name=longer", "name", "longer"),
        ("scheduler=cosine", "choices.scheduler", "cosine"),
        ("scheduler=cosine scheduler.eta_min=0.1", "scheduler.eta_min", 0.1),
        ("optimizer.lr=0.5", "model.hidden_sizes", [8]),
        ("optimizer.lr=0.5", "seed", 7),
        ("", "trainer.max_epochs", 30),
    ],
)
def test_changed_applies_what_was_typed(saved, words, key, value):
    """The saved config with the typed keys changed, and nothing else."""
    before = OmegaConf.to_yaml(saved)
    cfg = changes.changed(saved, compose.compose(words.split()), words.split(), ALLOWED, "it can't")
    assert keys.plain(OmegaConf.select(cfg, key)) == value
    assert OmegaConf.to_yaml(saved) == before


def test_changed_takes_a_whole_section(saved):
    """`scheduler=cosine` replaces the section, its references still unresolved."""
    words = ["scheduler=cosine"]
    cfg = changes.changed(saved, compose.compose(words), words, ALLOWED, lambda name: "it can't")
    assert OmegaConf.to_container(cfg.scheduler, resolve=False) == {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "T_max": "${spec.schedule_length}",
        "eta_min": 0.0,
    }


@pytest.mark.parametrize(
    ("word", "held"),
    [
        ("model=cnn", "model=mlp"),
        ("model.hidden_sizes=[16]", "model.hidden_sizes=[8]"),
        ("trainer.log_every=5", "trainer.log_every=50"),
        ("seed=3", "seed=7"),
        ("optimizer=sgd", "optimizer=adam"),  # "optimizer.*" are the keys, not the choice
        ("test=false", "test=true"),
    ],
)
def test_changed_refuses_what_may_not_change(saved, word, held):
    """The answer says why, what the run has, and what may change, in the words of the command line."""
    with pytest.raises(UserError) as caught:
        changes.changed(saved, compose.compose([word]), [word], ALLOWED, lambda name: "it can't change")
    message = str(caught.value)
    assert message.startswith(f"{word}: it can't change")
    assert held in message.replace(", ", ",")
    assert "trainer.max_epochs" in message
    assert len(message.splitlines()) <= 2


# --- sweeps and guesses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "combinations"),
    [
        (["model=mlp"], [["model=mlp"]]),
        (["model=mlp,cnn"], [["model=mlp"], ["model=cnn"]]),
        (
            ["model=mlp,cnn", "seed=0,1"],
            [["model=mlp", "seed=0"], ["model=mlp", "seed=1"], ["model=cnn", "seed=0"], ["model=cnn", "seed=1"]],
        ),
        (["seed=range(0,3)"], [["seed=0"], ["seed=1"], ["seed=2"]]),
        (["seed=choice(4,2)"], [["seed=4"], ["seed=2"]]),
        (["optimizer=glob(adam*)"], [["optimizer=adam"], ["optimizer=adamax"], ["optimizer=adamw"]]),
        (
            ["model.hidden_sizes=[8],[16,8]", "seed=1"],
            [["model.hidden_sizes=[8]", "seed=1"], ["model.hidden_sizes=[16,8]", "seed=1"]],
        ),
        (["name='a,b'"], [["name='a,b'"]]),
        ([], [[]]),
    ],
)
def test_combinations(words, combinations):
    """Every combination of what is swept, the last word changing fastest; each composes."""
    assert compose.combinations(words) == combinations
    for combination in combinations:
        compose.compose(combination)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("epochs", "trainer.max_epochs"),
        ("num_epochs", "trainer.max_epochs"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("max_epcohs", "trainer.max_epochs"),
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("trainer.lr", "optimizer.lr"),
        ("batch_size", "loader.batch_size"),
        ("trainer.batch_size", "loader.batch_size"),
        ("data.batch_size", "loader.batch_size"),
        ("workers", "loader.num_workers"),
        ("num_workers", "loader.num_workers"),
        ("device", "trainer.device"),
        ("gpus", "trainer.device"),
        ("patience", "early_stopping.patience"),
        ("earlystopping.patience", "early_stopping.patience"),
        ("clip", "trainer.max_grad_norm"),
        ("warmup_steps", "schedule.warmup_steps"),
        ("fractions", "split.fractions"),
        ("normalise", "transforms.normalize"),
        ("modle", "model"),
        ("dataset", "data"),
        ("lossfn", "loss"),
        ("optimiser", "optimizer"),
        ("sheduler", "scheduler"),
        ("xyzzy", ""),
    ],
)
def test_key_like(word, key):
    """The key that was probably meant: a habit from elsewhere, a forgotten section, a slip of the finger."""
    assert complaints.key_like(word) == key


def test_key_like_guesses_keys_of_the_door_alone():
    """evaluate.py has no groups and no optimizer: it must not guess them."""
    known = [name for name, _ in keys.typed_keys(schema.EvaluateConfig)]
    for word in ("model", "rnu", "epochs", "lr", "optimizer.lr", "split.fractions", "chekpoint"):
        guess = complaints.key_like(word, schema.EvaluateConfig)
        assert guess in ("", *known), word
    assert complaints.key_like("chekpoint", schema.EvaluateConfig) == "checkpoint"
