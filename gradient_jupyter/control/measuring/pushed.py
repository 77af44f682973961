"""Metrics that old scripts push in Prometheus' text form, as to a push-gateway: from text to points.

A push says what is so now, and may say it again; here each push adds points. What a series is called:

=====================================  ==============================================================
in the text                            key
=====================================  ==============================================================
``loss 0.3``                           ``loss``
``steps_total 7`` (a counter)          ``steps_total``
``lat_count``, ``lat_sum``             the same (of summaries and histograms)
``lat_bucket{le="0.5"}``               ``lat_bucket{le="0.5"}``
``lat{quantile="0.9"}``                ``lat{quantile="0.9"}``
``net_info{layers="3"}``               ``net_info{layers="3"}``, always 1
``loss{split="train"}``                ``loss{split="train"}``; several labels stand in their order
=====================================  ==============================================================

Labels that say who pushes (``job``, ``instance``, ``pod``, ``label_metrics_…_handle``) and ``step`` are no
part of it; neither is the time at which a counter was made (``…_created``) a metric. The step is the one in
the address, else the one in the labels; where that is no number, each key counts on by itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from gradient_jupyter.control.measuring.metrics import log
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import InvalidRequest, NotFound, TooLarge
from gradient_jupyter.resources.metric import MOST_AT_ONCE, Kind, Sample, is_sample

MOST_BYTES = 2**18
_MOST_LINE = 4096
_MOST_LABELS = 20
_NO_PART = re.compile(r"job|instance|pod|step|label_metrics_.*_handle")
_CREATED = "_created"
_STEP = re.compile(r"(-?[0-9]{1,18})(\.0+)?")
#: Key, value, the step's label, and the time in µs if it says one.
Parsed = tuple[str, float, str, int | None]
_KINDS = frozenset({"counter", "summary", "histogram", "info"})


async def push(plane: Plane, principal: Principal, group: Mapping[str, str], body: bytes) -> int:
    """Stores what was pushed; how many points that are. Raises ``InvalidRequest`` for what is no such text,
    ``TooLarge`` for too much of it, ``Conflict`` when the attempt is over."""
    assert principal.attempt is not None, "this door is opened by a run's own token"
    attempt = principal.attempt
    async with plane.counts.turn(attempt):
        return await _push(plane, principal, attempt, group, body)


async def _push(
    plane: Plane, principal: Principal, attempt: tuple[str, int], group: Mapping[str, str], body: bytes
) -> int:
    parsed = await plane.on_files(parse, body)
    if not plane.counts.known(attempt):
        stored = await plane.points.summaries(plane.layout.attempt(*attempt))
        plane.counts.begin(
            attempt, {each.key: each.last_step + 1 for each in stored if each.kind is Kind.CUSTOM}
        )
    try:
        samples = _samples(plane, attempt, group, parsed)
        if samples:
            await log(plane, principal, attempt[0], samples)
    except BaseException:
        plane.counts.forget(attempt)
        raise
    return len(samples)


def _samples(
    plane: Plane, attempt: tuple[str, int], group: Mapping[str, str], parsed: list[Parsed]
) -> list[Sample]:
    time_us = now_us()
    samples = []
    for key, value, labelled_step, own_time_us in parsed:
        step = plane.counts.take(attempt, key, _step(group.get("step", labelled_step)))
        sample = Sample(key, value, step, time_us if own_time_us is None else own_time_us)
        if not is_sample(sample):
            raise InvalidRequest(
                f"The series {key[:80]!r} cannot be stored: a name, with its labels, has 1 to 250 "
                "characters, none of them a control character, and a time is none before 1970.",
                code="bad-metric",
            )
        samples.append(sample)
    return samples


def grouping(path: str) -> dict[str, str]:
    """The labels in a push's address, which begins with ``job``. Raises ``NotFound`` for what is none."""
    parts = path.split("/")
    if len(parts) % 2 or parts[0] not in ("job", "job@base64"):
        raise NotFound(
            "A push goes to …/metrics/job/NAME, and label/value behind it as often as wanted.",
            code="bad-grouping",
        )
    if len(parts) > 2 * _MOST_LABELS:
        raise TooLarge(f"A push has at most {_MOST_LABELS} labels.", code="too-many-labels")
    found = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        encoded = name.endswith("@base64")
        found[name.removesuffix("@base64")] = _decoded(value) if encoded else value
    return found


def _decoded(value: str) -> str:
    bare = value.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("A label's value is no base64.", code="bad-grouping") from error


def parse(body: bytes) -> list[Parsed]:
    """Every series. Blocks: a tenth of a second for the largest text."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("What is pushed is no UTF-8 text.", code="bad-text") from error
    lines = text.split("\n")
    if any(len(line) > _MOST_LINE for line in lines):
        raise TooLarge(f"A line has at most {_MOST_LINE:,} characters.", code="line-too-long")
    if sum(1 for line in lines if line.strip() and not line.lstrip().startswith("#")) > MOST_AT_ONCE:
        raise TooLarge(f"A push brings at most {MOST_AT_ONCE:,} series.", code="too-many-points")
    try:
        families = list(text_string_to_metric_families(text))
    except Exception as error:  # a parser of other people's text: what it raises depends on the text
        raise InvalidRequest(
            f"What is pushed is not Prometheus' text form: {str(error)[:200]}.", code="bad-text"
        ) from error
    stamped = {family.name for family in families if family.type in _KINDS}
    found = []
    for family in families:
        for name, labels, value, timestamp, *_ in family.samples:
            if name.endswith(_CREATED) and name.removesuffix(_CREATED) in stamped:
                continue
            if len(labels) > _MOST_LABELS:
                raise TooLarge(f"A series has at most {_MOST_LABELS} labels.", code="too-many-labels")
            own = sorted((label, said) for label, said in labels.items() if not _NO_PART.fullmatch(label))
            key = name
            if own:
                key += "{" + ",".join(f'{label}="{_escaped(said)}"' for label, said in own) + "}"
            time_us = None if timestamp is None else _time_us(float(timestamp))
            found.append((key, float(value), labels.get("step", ""), time_us))
    return found


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _step(text: str) -> int | None:
    match = _STEP.fullmatch(text)
    return int(match[1]) if match else None


def _time_us(seconds: float) -> int:
    """-1, which nothing takes, for what is no time."""
    return round(seconds * 1e6) if 0 <= seconds < 9e12 else -1
