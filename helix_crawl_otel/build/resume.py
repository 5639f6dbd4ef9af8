"""What a command asks, against what its folder was built with: of which trees, with which model.

Nothing is mixed and nothing replaced without a word: what fits goes on, the rest is refused before anything is done,
with the ways out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.encoders.load import HASHING, MINILM, is_of, model_of, of_model, other_prompt
from helix_crawl_otel.encoders.models import full_id
from helix_crawl_otel.encoders.precision import AUTO
from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.paths import same_place
from helix_crawl_otel.shards.build_record import BuildRecord
from helix_crawl_otel.shards.errors import shown_identity
from helix_crawl_otel.shards.genes import id_of_name

__all__ = ["NotThisBuild", "TakenSources", "absolute_model", "settle_dtype", "settle_model", "settle_sources"]


class NotThisBuild(Refusal):
    """The folder was built of something else than the command names. The message has the ways out."""


# -- trees -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TakenSources:
    """The trees of a run.

    Args:
        taken: Those that it works on, by label.
        left: Those of the folder that the command does not name, by label: their shards stay as they are.
        moved: Labels of those that are in another place than before.
        notes: What is to be said of them.
    """

    taken: Mapping[str, Path]
    left: Mapping[str, str]
    moved: frozenset[str]
    notes: list[str]


def settle_sources(given: Sequence[Path], record: BuildRecord | None, output: Path, *, moved: bool) -> TakenSources:
    """Which trees a run works on, and under which labels.

    Args:
        given: As the command names them, absolute.
        record: Of the folder.
        output: The folder.
        moved: A tree that the folder does not know is one of its own, in another place.

    Raises:
        NotThisBuild: None of them is one of the folder's, or one lies in another.
    """
    paths, notes = _each_once(given)
    known = dict(record.sources) if record else {}
    taken: dict[str, Path] = {}
    new: list[Path] = []
    for path in paths:
        label = next((label for label, place in known.items() if same_place(Path(place), path)), None)
        if label is None:
            new.append(path)
        else:
            taken[label] = path
    left = {label: place for label, place in known.items() if label not in taken}
    if not moved and taken:
        _refuse_what_seems_moved(new, left, output)
    again = _moved(new, left, output) if moved and new and left else {}
    for label, path in again.items():
        notes.append(f"{left.pop(label)} is at {path} now, as --moved says")
    taken |= again
    new = [path for path in new if path not in again.values()]
    if known and not taken:
        raise NotThisBuild(_another(output, list(known.values()), new))
    added = _labels(new, known)
    if known:
        notes += [f"{path} is added to what {output} was built of" for path in added.values()]
    notes += [f"{place} is left out this time: its shards stay as they are" for place in left.values()]
    return TakenSources(taken | added, left, frozenset(again), notes)


def _each_once(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    paths: list[Path] = []
    notes = []
    for path in given:
        if any(same_place(path, other) for other in paths):
            notes.append(f"{path} is named twice, and taken once")
        else:
            paths.append(path)
    for path in paths:
        above = Path(os.path.realpath(path)).parents
        outer = next((other for other in paths if any(same_place(other, folder) for folder in above)), None)
        if outer is not None:
            raise NotThisBuild(f"{path} lies in {outer}, so that its files would be taken twice; name one of them")
    return paths, notes


def _another(output: Path, known: Sequence[str], given: Sequence[Path]) -> str:
    was, now = " and ".join(known), " and ".join(map(str, given))
    return (
        f"{output} was built of {was}, and not of {now}; accepted: {was}; both, which adds the one to the other; "
        "--moved, where it is the same tree in another place; or another --out"
    )


def _refuse_what_seems_moved(new: Sequence[Path], left: Mapping[str, str], output: Path) -> None:
    """Added beside the place where it was, a tree would be there twice."""
    for path in new:
        for place in left.values():
            if _last_name(place) == _last_name(str(path)) and not Path(place).exists():
                raise NotThisBuild(
                    f"{path} is new to {output}, and {place}, which is called the same, is not there any more; "
                    f"accepted: --moved, where it is that tree in another place; {place} where it was; or another --out"
                )


def _moved(new: Sequence[Path], left: Mapping[str, str], output: Path) -> dict[str, Path]:
    """The trees that are elsewhere now, by label: the only one that is missing, else those of the same name."""
    if len(new) == len(left) == 1:
        return {next(iter(left)): new[0]}
    found: dict[str, Path] = {}
    for path in new:
        labels = [label for label, place in left.items() if _last_name(place) == _last_name(str(path))]
        if len(labels) == 1 and labels[0] not in found:
            found[labels[0]] = path
    if not found:
        raise NotThisBuild(
            f"--moved: which of {' and '.join(left.values())} is now at {' or '.join(map(str, new))} is not known; "
            f"name the others of {output} as they were, and move one at a time"
        )
    return found


def _last_name(path: str) -> str:
    """Also of a path of another system: a folder may have come from there."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1].casefold()


def _labels(new: Sequence[Path], known: Mapping[str, str]) -> dict[str, Path]:
    """A label for each new tree: its name, with digits of its place where others bear the same. The first one needs
    none, as long as it is alone. They depend on nothing but the places, in whatever order they are named.
    """
    if not known and len(new) == 1:
        return {"": new[0]}
    names = [_last_name(str(path)) for path in new] + [label.casefold() for label in known]
    found = {}
    for path in new:
        label = id_of_name(path.name) or "root"
        if names.count(_last_name(str(path))) > 1 or not path.name:
            place = os.path.normcase(os.path.realpath(path))
            label = f"{label}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
        found[label] = path
    return dict(sorted(found.items()))


# -- the model ---------------------------------------------------------------------------------------------------------


def settle_model(
    asked: str | None,
    identities: Sequence[Mapping[str, object]],
    begun: str | None,
    place: str,
    *,
    reencode: bool,
    elsewhere: str = "",
) -> tuple[str, list[str]]:
    """Which model a run encodes with.

    Args:
        asked: As the command names it; `None` for the one that is in use there.
        identities: Of the encoders that the shards name.
        begun: The model that the folder was begun with, `None` where nothing says so.
        place: The folder, or the shards, for the message.
        reencode: What another model has encoded is to be encoded again.
        elsewhere: Another way out, where there is one.

    Returns:
        The model, and what is to be said of it.

    Raises:
        NotThisBuild: Vectors there are of another one.
        OSError: A model's folder cannot be read.
    """
    # Of the precision see `settle_dtype`; what is cut off is each shard's own affair, see `agreement`.
    identities = [of_model(identity) for identity in identities]
    several = [identity for number, identity in enumerate(identities) if identity not in identities[:number]]
    names = " and by ".join(map(shown_identity, several))
    model = asked or _own(several, begun)
    if model is None:
        if len(several) > 1:
            why = "say with --model which of them goes on, and with --reencode that the rest is encoded again"
        else:
            why = "say with --model where it is"
        raise NotThisBuild(f"{place} was encoded by {names}; {why}")
    if not reencode and (others := [identity for identity in several if not is_of(identity, model)]):
        raise NotThisBuild(_another_model(place, others, model, asked, len(several), elsewhere))
    notes = []
    if asked is None and model != MINILM:
        notes.append(f"{model} is the model, as no --model was given and {place} was built with it")
    elif asked is not None and begun is not None and not several and _whole_name(begun) != _whole_name(asked):
        notes.append(f"{place} was begun for {begun} and holds no vector yet; it goes on with {asked}")
    return model, notes


def settle_dtype(
    asked: str, identities: Sequence[Mapping[str, object]], place: str, *, reencode: bool, elsewhere: str = ""
) -> tuple[str, bool]:
    """What a run computes in, by what stands apart there already.

    Args:
        asked: As given to `--dtype`.
        identities: Of the encoders that the shards name, of one model.
        place: The folder, or the shards, for the message.
        reencode: What was made otherwise is to be encoded again.
        elsewhere: Another way out, where there is one.

    Returns:
        The dtype, `auto` where it is free; and whether vectors are there that its own have to agree with.

    Raises:
        NotThisBuild: The vectors there are of another dtype, with which nothing else is mixed.
    """
    found = {str(identity.get("dtype", AUTO)) for identity in identities}
    if reencode or not found:
        return asked, False
    apart = sorted(found - {AUTO})
    if asked == AUTO:
        # Where there are several, each shard goes on in its own.
        return (apart[0], False) if len(found) == len(apart) == 1 else (AUTO, False)
    if apart and apart != [asked]:
        ways = [f"--dtype {apart[0]}, or none", "--reencode, which encodes everything again", elsewhere]
        raise NotThisBuild(
            f"{place} was encoded in {' and '.join(apart)}, and --dtype is {asked}; accepted: "
            f"{'; or '.join(filter(None, ways))}"
        )
    return asked, not apart


def _another_model(
    place: str, others: Sequence[Mapping[str, object]], model: str, asked: str | None, several: int, elsewhere: str
) -> str:
    names = " and by ".join(map(shown_identity, others))
    known = model_of(others[0])
    ways = []
    prompt = other_prompt(others[0], model)
    if asked is not None and several == 1 and prompt is None:
        ways.append(f"no --model{f', or --model {known}' if known else ''}, which goes on with it")
    ways.append("--reencode, which encodes everything again")
    if elsewhere:
        ways.append(elsewhere)
    wanted = model if prompt is None else f"{model} with its prompt {prompt!r} before each passage"
    return f"{place} was encoded by {names}, not by {wanted}; accepted: {'; or '.join(ways)}"


def _own(several: Sequence[Mapping[str, object]], begun: str | None) -> str | None:
    if not several:
        return begun or MINILM
    if begun is not None and any(is_of(one, begun) or other_prompt(one, begun) is not None for one in several):
        return begun
    return model_of(several[0]) if len(several) == 1 else None


def absolute_model(model: str) -> str:
    """A model as it is found from everywhere: a folder absolute, the rest as it is."""
    return model if model in (HASHING, MINILM) or not Path(model).is_dir() else str(Path(model).resolve())


def _whole_name(model: str) -> str:
    """One spelling of a model, whatever it was called."""
    name, revision = full_id(absolute_model(model))
    return name if revision is None else f"{name}@{revision}"
