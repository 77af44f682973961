"""Every place of a request that takes text, found in the types of the running routes.

A new route, parameter or field is in the corpus by itself. Where no valid value can be guessed for a new
field, its route's example is refused and ``test_names`` says so: then its value goes into ``VALUES``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

#: Valid values of fields, by their name; a text in braces is put in from ``people.ids``.
VALUES: dict[str, object] = {
    "command": ["true"],
    "snapshot": "{snapshot}",
    "digest": "{blob}",
    "project_id": "{project}",
    "job_id": "{done}",
    "snapshot_id": "{snapshot}",
    "token_id": "{token-reader}",
    "path": "model.bin",
    "target": "model.bin",
    "url": "git+https://10.255.255.1/x/y@main",  # refused without asking anybody for a name
    "nonce": "0123456789abcdef",
    "name": "a-name",
    "new_name": "another name",
    "size": 39,
    "python": "/usr/bin/python3",
    "principal": "{guest}",
    "team": "{team}",
    "tag": "{tag}",
    "dataset_id": "{dataset}",
    "datasets": [],
    "role": "viewer",
    "token": "{push}",
    "labels": "job/x",
    "run_id": "{running}",
    "run_ids": ["{running}"],
    "experiment_id": "{project}",
    "experiment_ids": ["{project}"],
    "model_id": "{model}",
    "key": "loss",
    "metric_key": "loss",
    "model_json": "{}",
    "status": "LOGGED_MODEL_READY",
    "points": [["loss", 0.5, 1, 1700000000000000]],
}

#: Fields that need not be there, and without which the rest is not looked at.
ALWAYS = frozenset({"run_id", "experiment_id", "experiment_ids", "new_name"})

Place = tuple[str | int, ...]
#: A key of a mapping, in a place.
KEY = "\0key"


def example(kind: inspect.Type, name: str = "") -> Any:
    """The smallest value of a type."""
    if name in VALUES:
        return copy.deepcopy(VALUES[name])
    match kind:
        case inspect.StructType():
            made = {kind.tag_field: kind.tag} if kind.tag_field else {}
            made |= {
                field.encode_name: example(field.type, field.encode_name)
                for field in kind.fields
                if field.required or field.encode_name in ALWAYS
            }
            return made
        case inspect.UnionType():
            return example(kind.types[0], name)
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            return [example(kind.item_type, name) for _ in range(kind.min_length or 0)]
        case inspect.DictType():
            return {}
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.StrType():
            return "x" * max(1, kind.min_length or 1)
        case inspect.IntType() | inspect.FloatType():
            return kind.ge if kind.ge is not None else (kind.gt or 0) + 1
        case inspect.BoolType():
            return False
        case inspect.NoneType():
            return None
        case inspect.Metadata():
            return example(kind.type, name)
    return None


def texts(
    kind: inspect.Type, at: Place = (), name: str = ""
) -> Iterator[tuple[Place, Callable[[Any], None]]]:
    """Where text can stand, and what makes room for it in an example of the whole."""
    match kind:
        case inspect.Metadata():
            yield from texts(kind.type, at, name)
        case inspect.StrType() | inspect.EnumType() | inspect.LiteralType():
            yield at, lambda whole: None
        case inspect.StructType():
            for field in kind.fields:
                yield from texts(field.type, (*at, field.encode_name), field.encode_name)
        case inspect.UnionType():
            for each in kind.types:
                for place, prepare in texts(each, at, name):
                    yield place, _filling(at, each, name, prepare) if len(place) > len(at) else prepare
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            for place, prepare in texts(kind.item_type, (*at, 0), name):
                yield place, _filling((*at, 0), kind.item_type, name, prepare)
        case inspect.DictType():
            yield (*at, KEY), lambda whole: None
            for place, prepare in texts(kind.value_type, (*at, "NAME"), ""):
                yield place, prepare


def _filling(at: Place, kind: inspect.Type, name: str, then: Callable[[Any], None]) -> Callable[[Any], None]:
    def prepare(whole: Any) -> None:
        put(whole, at, example(kind, "" if isinstance(kind, inspect.StructType) else name))
        then(whole)

    return prepare


def put(whole: Any, place: Place, value: Any) -> None:
    """Sets what stands at a place, making the way there."""
    for step, following in itertools.pairwise(place):
        fresh: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            while len(whole) <= step:
                whole.append(fresh)
            if whole[step] is None or not isinstance(whole[step], (dict, list)):
                whole[step] = fresh
        elif whole.get(step) is None or not isinstance(whole.get(step), (dict, list)):
            whole[step] = fresh
        whole = whole[step]
    last = place[-1]
    if last == KEY:
        whole[value] = "value"
    elif isinstance(last, int):
        if len(whole) <= last:
            whole.append(value)
        else:
            whole[last] = value
    else:
        whole[last] = value


def places(kind: type) -> list[tuple[Place, Any]]:
    """Each place of a struct that takes text, with an example that has room for it."""
    described = msgspec.inspect.type_info(kind)
    found: dict[Place, Any] = {}
    for place, prepare in texts(described):
        whole = example(described)
        prepare(whole)
        found.setdefault(place, whole)
    return list(found.items())
