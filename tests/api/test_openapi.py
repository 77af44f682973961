"""The document, and the server held against it by schemathesis."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from gradient_jupyter.api.app import all_routes
from gradient_jupyter.api.openapi import document
from gradient_jupyter.api.routes import NATIVE


def test_every_route_of_our_own_face_is_in_the_document_and_nothing_else(solo):
    served = solo.request("GET", "/openapi.json").json()
    assert served["openapi"] == "3.1.0"
    found = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    assert found == {(route.method, route.address) for route in all_routes() if route.face is NATIVE}
    others = {"", "/mlflow", "/pushgateway"}
    assert {route.face.prefix for route in all_routes()} == {NATIVE.prefix, *others}
    assert all(prefix in served["info"]["description"] for prefix in (NATIVE.prefix, *others))
    names = [op["operationId"] for methods in served["paths"].values() for op in methods.values()]
    assert len(names) == len(set(names))


@schemathesis.serializer("application/x-gradient-pack")
def as_bytes(context, value):
    """Packs are bytes; whatever schemathesis makes up is sent as it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


schema = schemathesis.openapi.from_dict(document(all_routes()))


# Left out: the server's own stop, which would end the test, and the stream that never ends.
@(schema.exclude(path=f"{NATIVE.prefix}/server/stop").exclude(path=f"{NATIVE.prefix}/events").parametrize())
@settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # fmt: skip
def test_no_input_makes_the_server_fail(case, solo):
    answer = case.call(
        base_url=solo.runtime.url,
        headers={"Authorization": f"Bearer {solo.runtime.token}"},
        timeout=60,
    )
    case.validate_response(answer, checks=[not_a_server_error])
    assert answer.status_code < 500
