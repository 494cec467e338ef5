"""Texts in files become tokens: the vocabulary is the training split's, padding is counted, nothing is lost."""

import collections
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

import plainloop
from plainloop.config.compose import compose
from plainloop.data.classes import check_classes
from plainloop.data.dataset import per_sample
from plainloop.data.kinds.charseq import STRANGE, charseq
from plainloop.data.kinds.text import MARKS, PADDING, UNKNOWN, Texts, padded, text, tokenise
from plainloop.data.overlap import shared_samples
from plainloop.data.splits import Data, Division, build_data, by_position
from plainloop.errors import UserError
from tests.formats import reviews


@pytest.fixture
def file(tmp_path: Path) -> str:
    polars.DataFrame(reviews()).write_csv(tmp_path / "reviews.csv")
    return str(tmp_path / "reviews.csv")


def written(tmp_path: Path, content: str | bytes, name: str = "texts.csv") -> str:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(tmp_path / name)


def texts(*lines: str, **options: Any) -> Texts:
    """Texts with class 0, all of them to train on."""
    data = Texts(lines, torch.zeros(len(lines), dtype=torch.int64), **{"min_count": 1, **options})
    data.fit(torch.arange(len(lines)))
    return data


def read(data: Texts, index: int) -> list[str]:
    """A sample's tokens as the vocabulary names them."""
    return [data.vocabulary[number] for number in data[index][0]["tokens"]]


# --- tokens and vocabulary ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "options", "tokens"),
    [
        ("The cat, the Dog!", ("word", True), ["the", "cat", ",", "the", "dog", "!"]),
        ("The Dog", ("word", False), ["The", "Dog"]),
        ("don't  stop\n\tnow ...", ("word", True), ["don't", "stop", "now", ".", ".", "."]),
        (
            "Straße 12\N{RIGHT SINGLE QUOTATION MARK}s naïve 世界",
            ("word", False),
            ["Straße", "12\N{RIGHT SINGLE QUOTATION MARK}s", "naïve", "世界"],
        ),
        ("A b\n", ("char", True), ["a", " ", "b", "\n"]),
        ("A b", ("char", False), ["A", " ", "b"]),
        (" \n", ("word", True), []),
    ],
)
def test_tokens(line, options, tokens):
    assert tokenise(line, *options) == tokens


def test_a_text_is_its_words_numbers():
    data = texts("b a b", "c b a d")
    assert data.vocabulary == ["<pad>", "<unk>", "b", "a", "c", "d"]  # by count, then by name
    assert data[0][0]["tokens"].tolist() == [2, 3, 2]
    assert data[1][0]["tokens"].tolist() == [4, 2, 3, 5]
    assert data[1][0]["tokens"].dtype == torch.int64
    assert read(data, 1) == ["c", "b", "a", "d"]


def test_the_vocabulary_is_the_training_splits():
    """Counted over the training texts alone: what the others hold changes nothing, and is unknown."""
    rows = reviews()
    lines = [row["review"] for row in rows]
    chosen = torch.arange(0, 160, 3)
    others = sorted(set(range(160)) - set(chosen.tolist()))
    changed = ["zebra zebra zebra " + line if number in others else line for number, line in enumerate(lines)]
    vocabularies = []
    for each in (lines, changed):
        data = Texts(each, torch.zeros(160, dtype=torch.int64), min_count=4)
        data.fit(chosen)
        vocabularies.append(data.vocabulary)
    counts = collections.Counter(itertools.chain(*((lines[i][:-1] + " .").split() for i in chosen.tolist())))
    expected = sorted((word for word in counts if counts[word] >= 4), key=lambda word: (-counts[word], word))
    assert vocabularies == [[*MARKS, *expected]] * 2
    assert data[others[0]][0]["tokens"][:3].tolist() == [UNKNOWN] * 3


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"min_count": 2}, ["a", "b", "c"]),
        ({"min_count": 5}, ["a"]),
        ({"max_words": 2}, ["a", "b"]),
        ({"min_count": 2, "max_words": 1}, ["a"]),
    ],
    ids=str,
)
def test_rare_tokens_are_unknown(options, known):
    data = texts("a a a a a b b b", "c b c d", **options)
    assert data.vocabulary == [*MARKS, *known]
    assert read(data, 1) == [word if word in known else "<unk>" for word in ["c", "b", "c", "d"]]


def test_long_texts_are_cut():
    data = texts("a b c d", "e f", max_length=3)
    assert data.lengths.tolist() == [3, 2]
    assert read(data, 0) == ["a", "b", "c"]
    assert "d" not in data.vocabulary


def test_a_sample_before_it_is_tokenised_is_a_dict():
    data = Texts(["One.", "Two."], torch.tensor([1, 0]), classes=["no", "yes"])
    assert data.sample(0) == {"text": "One.", "label": "yes"}
    assert data.select(torch.tensor([1])).sample(0) == {"text": "Two.", "label": "no"}


def test_a_part_keeps_its_samples_and_the_vocabulary():
    data = texts("a b c", "d", "a a", "b c d e")
    part = data.select(torch.tensor([3, 0])).select(torch.tensor([1, 0]))
    assert [read(part, index) for index in range(len(part))] == [["a", "b", "c"], ["b", "c", "d", "e"]]
    assert part.lengths.tolist() == [3, 4]
    assert part.facts == data.facts
    assert data.facts["vocab_size"] == len(json.loads(data.facts["vocabulary"])) == 7
    assert data.facts["padding"] == PADDING


def test_batches_are_padded_to_their_longest():
    data = texts("a b c", "d", "a a")
    inputs, targets = padded([data[index] for index in range(3)])
    assert inputs["lengths"].tolist() == [3, 1, 2]
    for row, length, index in zip(inputs["tokens"], [3, 1, 2], range(3), strict=True):
        assert row.tolist() == data[index][0]["tokens"].tolist() + [PADDING] * (3 - length)
    assert targets.tolist() == [0, 0, 0]
    assert padded([data[2]])[0]["tokens"].shape == (1, 2)


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_every_kind_of_file_says_the_same(kind, tmp_path):
    """Commas, quotes, tabs and line ends inside of a text stay in it; texts that look like numbers stay words."""
    lines = ['a "quoted", text', "two\nlines", "007", "ein Tab\there", "schön 世界 🙂"]
    frame = polars.DataFrame({"said": lines, "who": ["x", "y", "x", "y", "y"]})
    path = tmp_path / f"texts.{kind}"
    write = {
        "csv": frame.write_csv,
        "tsv": lambda p: frame.write_csv(p, separator="\t"),
        "parquet": frame.write_parquet,
        "jsonl": frame.write_ndjson,
    }
    write[kind](path)
    data = text(str(path), "said", "who", tokens="char", lower=False, min_count=1)
    data.fit(torch.arange(5))
    assert ["".join(read(data, index)) for index in range(5)] == lines
    assert (list(data.classes), data.targets.tolist()) == (["x", "y"], [0, 1, 0, 1, 1])


def test_texts_that_look_like_numbers_stay_words(tmp_path):
    data = text(written(tmp_path, "code,kind\n007,a\n7,b\n1e3,a\n"), "code", "kind", min_count=1)
    assert [data.sample(index)["text"] for index in range(3)] == ["007", "7", "1e3"]


@pytest.mark.parametrize(
    ("column", "task", "why"),
    [
        (["x", "y", "x", "y"], "binary", "2 words"),
        (["x", "y", "z", "y"], "multiclass", "3 words"),
        ([1, 0, 0, 1], "binary", "2 whole numbers"),
        ([0.5, 1.25, 2.0, 7.5], "regression", "numbers"),
    ],
    ids=str,
)
def test_the_target_says_the_task(column, task, why, tmp_path):
    path = tmp_path / "texts.csv"
    polars.DataFrame({"said": list("abcd"), "it": column}).write_csv(path)
    found, said = text.task_of(path=str(path), target="it", tokens="word")
    assert found == task
    assert why in said
    data = text(str(path), "said", "it")
    assert (data.classes is None) == (task == "regression")
    assert data.targets.dtype == (torch.float32 if task == "regression" else torch.int64)


def test_the_task_decides_what_numbers_are(tmp_path):
    path = written(tmp_path, "said,stars\nwell,5\nso,3\nno,1\nwell,5\n")
    assert text(path, "said", "stars", task="regression").targets.tolist() == [[5.0], [3.0], [1.0], [5.0]]
    assert text(path, "said", "stars", task="multiclass").targets.tolist() == [2, 1, 0, 2]


def test_several_columns_of_0_and_1_are_labels(tmp_path):
    path = written(tmp_path, "said,loud,long\nHO,1,0\nwell well,0,1\nWELL WELL,1,1\n")
    assert text.task_of(path=path, target=["loud", "long"])[0] == "multilabel"
    data = text(path, "said", ["loud", "long"])
    assert data.targets.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert data.target_names == ["loud", "long"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "there is no such file"),
        ("", {}, "the file is empty"),
        ("said,who\n", {}, "no rows"),
        ("said,who\na,x\nb,y\n", {"text": "sayd"}, "data.text=sayd: .* no such column. Did you mean said.* said, who"),
        ("said,who\na,x\nb,y\n", {"target": "whom"}, "data.target=whom: .* no such column. Did you mean who"),
        ("said,who\na,x\n,y\nc,y\n", {}, "line 3: said is missing"),
        ("said,who\na,x\nb,\nc,y\n", {}, "line 3: who is missing"),
        ("said,who\na,x\nb,x\n", {}, "one class only"),
        ('said,who\na,x\n"  ",y\n', {}, "line 3: said is missing"),
        ('{"said": "a", "who": 1}\n{"said": " \\n ", "who": 0}\n', {}, "line 2: no word is left of said"),
        ("said,who\na,x\nb,y\n", {"target": "said"}, "would be predicted from itself"),
        ("said,who\na,x\nb,y\n", {"task": "regression"}, "column of words"),
        ("said,who\na,x\nb,y\n", {"tokens": "words"}, "data.tokens=words: must be word or char. Did you mean word"),
        ("said,who\na,x\nb,y\n", {"max_length": 0}, "data.max_length=0: must be a whole number of at least 1"),
        ("said,who\na,x\nb,y\n", {"min_count": "often"}, "data.min_count=often: must be a whole number"),
        ('{"said": 1, "who": 1}\n{"said": 2, "who": 0}\n', {}, "data.text=said: .* Int64 there, and no text"),
    ],
)
def test_bad_files_are_answered(content, options, message, tmp_path):
    name = "texts.jsonl" if isinstance(content, str) and content.startswith("{") else "texts.csv"
    path = written(tmp_path, content, name) if content is not None else str(tmp_path / "texts.csv")
    with pytest.raises(UserError, match=message):
        text(path, **{"text": "said", "target": "who", **options})


def test_a_class_outside_the_training_split_is_answered(tmp_path):
    """With the line of its first text."""
    path = written(tmp_path, "said,who\na,x\nb,y\nc,x\nd,y\ne,z\nf,z\n")
    data = text(path, "said", "who", min_count=1)
    data.fit(torch.tensor([0, 1, 2, 3]))
    parts = [data.select(torch.tensor(rows)) for rows in ([0, 1, 2, 3], [5], [4, 3])]
    with pytest.raises(UserError, match=r"texts.csv, line 7: the class z isn't in the training split \(1 in val"):
        check_classes(Data(*parts), data.classes)
    check_classes(Data(parts[0], None, parts[0]), data.classes)


def test_no_token_that_is_frequent_enough():
    with pytest.raises(UserError, match=r"data.min_count=3: no word occurs so often"):
        texts("a b", "c", min_count=3)


def test_repeated_texts_are_told():
    """By the places of the equal ones, whatever their labels are."""
    data = Texts(["a", "b", "a", "a", "c"], torch.arange(5.0), min_count=1)
    data.fit(torch.tensor([0, 1]))
    parts = [data.select(torch.tensor(rows)) for rows in ([1, 0], [4], [4, 2, 3])]
    assert shared_samples(Data(*parts)) == {"test": [(1, 1), (2, 1)]}


def test_columns_of_the_file_divide(file):
    """split.group: nobody's texts are on two sides. split.time: the latest days are in test; words that are dates."""

    def make() -> Texts:
        return text(file, "review", "mood")

    data = build_data(make, text, Division(group="who"), seed=0)
    writers = [{row["who"] for row in (reviews()[i] for i in data.indices[s]["indices"])} for s in data.indices]
    assert not any(a & b for a, b in itertools.combinations(writers, 2))
    data = build_data(make, text, Division(time="day"), seed=0)
    days = [sorted(reviews()[i]["day"] for i in data.indices[s]["indices"]) for s in ("train", "val", "test")]
    assert days[0][-1] < days[1][0] <= days[1][-1] < days[2][0]
    with pytest.raises(UserError, match=r"split=whom: .* no such column. Did you mean who"):
        build_data(make, text, Division(group="whom"), seed=0)


# --- training -----------------------------------------------------------------------------------------------

SMALL = ["model.embedding_size=8", "model.hidden_size=8", "loader.batch_size=16", "logger=none"]


def words_for(file: str, *more: str) -> list[str]:
    return ["data=text", f"data.path={file}", "data.text=review", "data.target=mood", *SMALL, *more]


def last_weights(run: plainloop.Run) -> torch.Tensor:
    """All weights of the newest checkpoint, in a row."""
    file = max(run.path.glob("checkpoints/step-*.pt"), key=lambda file: int(file.stem.removeprefix("step-")))
    return torch.cat([value.flatten() for value in torch.load(file, weights_only=True)["model"].values()])


@pytest.mark.slow
def test_texts_train_evaluate_and_resume(file, capsys):
    """The task follows from the target and is said; the run's numbers come out again; a run that is continued ends
    with the bits of one that wasn't interrupted."""
    whole = plainloop.train(words_for(file, "trainer.max_epochs=3", "optimizer.lr=0.01"))
    out = capsys.readouterr().out
    assert "note    task=binary: mood holds 2 words (cross, glad)" in out
    assert "128 train, 16 val, 16 test; inputs tokens; 2 classes (cross, glad); texts of 6 to 16 words; " in out
    assert plainloop.evaluate(whole.path)["test/loss"] == whole.metrics["test/loss"]
    assert json.loads(plainloop.load_run(whole.path).config.spec.vocabulary) == whole.data.train.vocabulary
    first = plainloop.train(words_for(file, "trainer.max_epochs=2", "optimizer.lr=0.01"))
    assert not torch.equal(last_weights(first), last_weights(whole))
    again = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    assert torch.equal(last_weights(again), last_weights(whole))
    assert again.metrics["test/loss"] == whole.metrics["test/loss"]


@pytest.mark.slow
def test_texts_are_learned(file):
    """What tells the mood is in the words: nearly all of the test split is right."""
    run = plainloop.train(words_for(file, "trainer.max_epochs=12", "optimizer.lr=0.02"))
    assert run.metrics["test/accuracy"] > 0.9


def test_numbers_and_characters_train(file):
    """Stars from 1 to 5 are a regression, in stars; and texts may be read by characters."""
    words = words_for(file, "trainer.max_epochs=1", "data.target=stars", "data.tokens=char", "data.max_length=20")
    run = plainloop.train(words)
    assert run.config.choices.task == "regression"
    stars = torch.tensor([row["stars"] for row in reviews()])
    assert 0 < run.metrics["test/mae"] < float(stars.max() - stars.min())
    assert run.data.train.lengths.max() == 20


@pytest.mark.slow
def test_length_batches_report_the_padding_they_save(file, capsys):
    """The numbers in the note are those of the batches that are trained on, and of batches in random order."""
    run = plainloop.train(words_for(file, "trainer.max_epochs=1", "loader.batch_sampler=length"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "similar length" in line]
    said, otherwise = (int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit())
    lengths = per_sample(run.data.train, "lengths")
    # Sorted within one pool (128 samples are fewer than 100 batches): the least that is possible.
    batches = lengths.sort().values.split(16)
    assert said == sum(int(len(batch) * batch.max() - batch.sum()) for batch in batches)
    assert said < otherwise / 2
    plain = [torch.randperm(128, generator=torch.Generator().manual_seed(seed)).split(16) for seed in range(50)]
    sums = [sum(int(len(b) * lengths[b].max() - lengths[b].sum()) for b in batches) for batches in plain]
    assert min(sums) * 0.9 < otherwise < max(sums) * 1.1


@pytest.mark.parametrize("word", ["model=mlp", "transforms.normalize=train", "model=char_rnn"])
def test_what_does_not_fit_texts_is_refused(word, file):
    with pytest.raises(UserError):
        plainloop.train([*(w for w in words_for(file) if not w.startswith("model.")), word])


# --- running text -------------------------------------------------------------------------------------------

BOOK = "It was so, and so it was; nobody knew why.\n" * 30 + "Then, quite at the end: a \N{SNOWMAN} and a Z.\n"


def said(data: Any, numbers: torch.Tensor) -> str:
    """Numbers as the characters of a vocabulary; what is ignored is left out."""
    vocabulary = json.loads(data.facts["vocabulary"])
    return "".join(vocabulary[number] for number in numbers.flatten().tolist() if number >= 0)


def test_a_string_is_one_sample():
    """16 characters: 15 of them, and the 15 that follow; its own characters are the vocabulary, and all."""
    data = charseq("train", text=" if you want you", length=100)
    assert data.inputs.shape == data.targets.shape == (1, 15)
    assert said(data, data.inputs) == " if you want yo"
    assert said(data, data.targets) == "if you want you"
    assert json.loads(data.facts["vocabulary"]) == sorted(set(" if you want you"))
    assert data.classes == ["space", *"afinotuwy"]
    assert charseq("val", text="abc") is None
    assert charseq("test", text="abc") is None


@pytest.mark.parametrize("count", [2, 3, 10, 11, 12, 21, 22, 95])
@pytest.mark.parametrize("length", [1, 2, 10, 94])
def test_windows_hold_every_character_that_has_a_next_one(count, length):
    """The characters but the last, each once and in order, each with the one behind it; then -100."""
    line = "".join(chr(33 + number) for number in range(count))
    data = charseq("train", text=line, length=length)
    width = min(length, count - 1)
    assert data.inputs.shape == data.targets.shape == (-(-(count - 1) // width), width)
    inputs, targets = data.inputs.flatten(), data.targets.flatten()
    assert inputs[: count - 1].tolist() == list(range(count - 1))
    assert targets[: count - 1].tolist() == list(range(1, count))
    assert (targets[count - 1 :] == -100).all()


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.34, 0.33, 0.33), (1.0, 0.0, 0.0)], ids=str)
def test_a_book_is_divided_by_position(fractions, tmp_path):
    """Train, val and test are its beginning, middle and end; no window reaches over an edge; what training hasn't
    seen is unknown, and said."""
    path = written(tmp_path, BOOK, "book.txt")
    data = {name: charseq(name, path=path, fractions=fractions, length=7) for name in ("train", "val", "test")}
    held = {name: BOOK[start:end] for name, (start, end) in by_position(len(BOOK), fractions).items()}
    assert "".join(held.values()) == BOOK
    known = set(held["train"])
    for name, share in zip(held, fractions, strict=True):
        assert (data[name] is None) == (share == 0)
        if data[name] is not None:
            readable = "".join(c if c in known else STRANGE for c in held[name])
            targets = data[name].targets.flatten()
            assert said(data[name], data[name].inputs.flatten()[: len(readable) - 1]) == readable[:-1]
            assert said(data[name], targets) == readable[1:]
            assert json.loads(data[name].facts["vocabulary"]) == [STRANGE, *sorted(known)]
    assert abs(len(held["train"]) - fractions[0] * len(BOOK)) <= 1
    if fractions[0] < 1:
        assert "not known from train" in data["train"].note
        assert "\\u2603" not in data["train"].note  # a character that can be printed is shown
        assert "\N{SNOWMAN}" in data["train"].note


def test_line_ends_and_marks_of_other_systems_are_no_characters(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbfone\r\ntwo\r\n", "book.txt")
    data = charseq("train", path=path, fractions=(1, 0, 0))
    assert said(data, data.inputs) + said(data, data.targets[0, -1]) == "one\ntwo\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "there is no such file"),
        (b"", {}, "the file is empty"),
        (b"x", {}, "one character only"),
        (b"one\ntwo\nthr\xe9e", {}, "line 3: not text in UTF-8: byte 11 of the file is 0xe9"),
        (b"\xef\xbb\xbfone\xff", {}, "byte 6 of the file is 0xff"),
        (b"only ten ", {}, "leaves 1 of 9 characters for val"),
        (b"four", {"fractions": (0.9, 0.05, 0.05)}, "leaves 0 of 4 characters for val"),
        (b"a text", {"length": 0}, "data.length=0: must be a whole number of at least 1"),
        (b"a text", {"text": "another"}, "data.text or data.path"),
    ],
)
def test_bad_books_are_answered(content, options, message, tmp_path):
    path = written(tmp_path, content, "book.txt") if content is not None else str(tmp_path / "book.txt")
    with pytest.raises(UserError, match=message):
        list(map(partial(charseq, path=path, **options), ("train", "val", "test")))


@pytest.mark.parametrize(
    ("value", "message"), [(None, "data.text or data.path"), ("x", "two characters"), (12, "12: ")]
)
def test_bad_strings_are_answered(value, message):
    with pytest.raises(UserError, match=message):
        charseq("train", text=value)


def book_words(path: str, *more: str) -> list[str]:
    return [
        "data=charseq",
        f"data.path={path}",
        "data.length=20",
        "model.hidden_size=16",
        "loader.batch_size=8",
        "logger=none",
        "optimizer.lr=0.01",
        *more,
    ]


@pytest.mark.slow
def test_a_book_trains_evaluates_resumes_and_writes(tmp_path):
    path = written(tmp_path, BOOK, "book.txt")
    whole = plainloop.train(book_words(path, "trainer.max_epochs=3"))
    assert plainloop.evaluate(whole.path)["test/perplexity"] == whole.metrics["test/perplexity"]
    assert whole.metrics["test/perplexity"] == pytest.approx(
        torch.tensor(whole.metrics["test/loss"]).exp().item(), 1e-4
    )
    first = plainloop.train(book_words(path, "trainer.max_epochs=2"))
    assert not torch.equal(last_weights(first), last_weights(whole))
    again = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    assert torch.equal(last_weights(again), last_weights(whole))
    written_by_it = plainloop.load_run(whole.path).model.generate("It was", 30, 1.0, torch.Generator().manual_seed(0))
    assert len(written_by_it) == 30
    assert set(written_by_it) <= set(BOOK)


def test_a_string_trains_without_validation(capsys):
    """As it is typed: nothing is held back from one string, whatever split.fractions says."""
    run = plainloop.train(["data=charseq", 'data.text=" if you want you"', "trainer.max_epochs=2", "logger=none"])
    assert run.data.val is None
    assert run.data.test is None
    assert "1 train; inputs 15 int64; 10 classes (space, a, f, i, n, o, t, u, w, y)" in capsys.readouterr().out
    with pytest.raises(UserError, match="folds=2: the data brings"):
        plainloop.train(["data=charseq", "data.text=abcabc", "split.folds=2", "logger=none"])


def test_strange_characters_survive_the_config(tmp_path):
    """The vocabulary that is kept with the run is the one that it was trained with, whatever is in it."""
    strange = "".join(map(chr, [*range(1, 13), *range(14, 256), 0x2028, 0xFEFF, 0x1F600])) + "${a}???null~'\"\\"
    path = written(tmp_path, strange * 3, "book.txt")
    run = plainloop.train(book_words(path, "trainer.max_epochs=1", "split.fractions=[1,0,0]"))
    kept = json.loads(plainloop.load_run(run.path).config.spec.vocabulary)
    assert kept == [STRANGE, *sorted(set(strange))]


def test_the_data_configs_choose_what_follows():
    for data, model, task in (
        ("text", "rnn", "auto"),
        ("charseq", "char_rnn", "sequence_labelling"),
        ("one_string", "char_rnn", "sequence_labelling"),
    ):
        choices = compose([f"data={data}"]).choices
        assert (choices.model, choices.task) == (model, task)


def test_rows_without_a_text_are_left_out_where_that_is_said(tmp_path):
    (tmp_path / "texts.csv").write_text("said,who\nfine day,x\n,y\n   ,x\nbad day,y\nfine,x\n")
    with pytest.raises(UserError, match=r"line 3: said is missing"):
        text(str(tmp_path / "texts.csv"), "said", "who")
    data = text(str(tmp_path / "texts.csv"), "said", "who", empty="drop", min_count=1)
    assert [data.sample(index)["text"] for index in range(len(data))] == ["fine day", "bad day", "fine"]
    assert data.targets.tolist() == [0, 1, 0]
    assert data.where(1).endswith("line 5")
    data.fit(torch.arange(3))
    assert data.note.startswith("2 empty texts left out\n")
