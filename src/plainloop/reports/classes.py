"""What the sizes of the classes say of the numbers that will be measured."""

from collections.abc import Iterator

from torch import Tensor

from plainloop.assembly.session import Session
from plainloop.data.dataset import SPLITS, targets_of
from plainloop.errors import listed

UNEVEN = 3  # times as many samples of the most frequent class as of the rarest


def class_counts(session: Session) -> dict[str, Tensor]:
    """Samples of each class (C,), by split; of the splits whose classes are known without reading the samples."""
    names, found = session.spec.class_names or [], {}
    for split in SPLITS:
        targets = targets_of(session.data[split])
        if len(names) > 1 and targets is not None and targets.ndim == 1:
            known = targets[targets != session.data.ignored].long()
            found[split] = known.bincount(minlength=len(names))
    return found


def missing_classes(session: Session) -> Iterator[str]:
    """What a split doesn't have can't be learned from it, or isn't measured there."""
    counts, names = class_counts(session), session.spec.class_names or []
    unknown = [name for name, count in zip(names, counts.get("train", ()), strict=False) if count == 0]
    if unknown:
        yield f"train has no sample of {listed(unknown, 8)}: it can't be learned"
    for split in [split for split in SPLITS[1:] if split in counts and "train" in counts]:
        gone = [
            name for name, here, there in zip(names, counts[split], counts["train"], strict=True) if there > here == 0
        ]
        present = [name for name, here in zip(names, counts[split], strict=True) if here > 0]
        if gone and len(present) == 1:
            chosen = ", and can't choose the best weights" if split == "val" else ""
            yield (
                f"all {int(counts[split].sum()):,} samples of {split} are of one class ({present[0]}): whoever always "
                f"says so is right there, so accuracy means nothing{chosen}"
            )
        elif gone and present:
            yield f"{split} has no sample of {listed(gone, 8)}: what is measured there says nothing of it"


def uneven_classes(session: Session) -> Iterator[str]:
    """What can be done about classes of very different sizes."""
    train = class_counts(session).get("train")
    if train is None or session.config.loader.sampler is not None or session.config.loader.batch_sampler is not None:
        return
    least, most = int(train.min()), int(train.max())
    if least > 0 and most >= UNEVEN * least:
        rarest = (session.spec.class_names or [])[int(train.argmin())]
        yield (
            f"{least:,} to {most:,} training samples of a class, fewest of {rarest}: loader.sampler=balanced draws all "
            "classes as often"
        )
