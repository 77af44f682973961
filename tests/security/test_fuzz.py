"""schemathesis against the server of several people: no input makes it fail, and nothing of the owner's is
told.

Boundary B2, asset A1, abuse case 3. ``people.CANARY`` stands in every name, tag, variable, log and artifact
of the owner's; ids of theirs are put where the document wants one.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from people import CANARY

from gradient_jupyter.api.app import all_routes
from gradient_jupyter.api.openapi import document

# Left out: the server's own stop, and the stream that never ends.
schema = (
    schemathesis.openapi.from_dict(document(all_routes()))
    .exclude(path_regex="/server/stop$")
    .exclude(path_regex="/events$")
)


@schemathesis.serializer("application/x-gradient-pack")
def as_bytes(context, value):
    """Packs are bytes; whatever schemathesis makes up is sent as it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("who", ["stranger", "reader", "outer"])
@schema.parametrize()
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_input_tells_anything_of_somebody_elses_or_makes_the_server_fail(case, people, who):
    ids = people.ids
    known = {
        "job_id": ids["done"], "project_id": ids["project"], "snapshot_id": ids["snapshot"],
        "dataset_id": ids["dataset"], "token_id": ids["token-reader"], "principal": ids["seen"],
        "name": ids["secret"],
    }  # fmt: skip
    for tried in (False, True):
        if tried:
            names = known.keys() & (case.path_parameters or {}).keys()
            if not names:
                return
            case.path_parameters = {**case.path_parameters, **{name: known[name] for name in names}}
        answer = case.call(
            base_url=people.runtime.url, headers={"Authorization": f"Bearer {people.tokens[who]}"}, timeout=60
        )
        assert answer.status_code < 500, answer.content
        if case.path.endswith("/whoami"):
            continue  # their own name
        if who != "reader":
            assert CANARY.encode() not in answer.content
        elif case.method.upper() != "GET":
            assert answer.status_code >= 400
