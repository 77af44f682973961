"""Who may do what: every route, and what each role is answered. Written by hand, read by ``test_matrix``.

One line a route: method, address, then one status for each role in the order of ``people.ROLES``; before them
that of ``NOBODY`` (no token, a wrong, an expired, a revoked one). What is in braces is put in from
``people.ids``; what begins with ``new-`` is made for each request that succeeds, because that changes it (a
project always: ``inner`` opens another).

A route that is not here fails the test. To add one: write its line, and its body into ``BODIES`` if it takes
one.
"""

from __future__ import annotations

TABLE = """
#                                             nobody  stranger viewer member admin owner operator reader scraper inner outer job other fenced
GET    /api/v1/hello?nonce=0123456789abcdef    200     200 200 200 200 200 200 200 200 200 200 200 200 200
GET    /health/live                            200     200 200 200 200 200 200 200 200 200 200 200 200 200
GET    /health/ready                           200     200 200 200 200 200 200 200 200 200 200 200 200 200
GET    /metrics                                401     403 403 403 403 403 200 403 200 403 403 403 403 409
GET    /api/v1/server                          401     200 200 200 200 200 200 200 403 200 200 403 403 409
GET    /api/v1/openapi.json                    401     200 200 200 200 200 200 200 403 200 200 403 403 409
POST   /api/v1/server/stop                     401     403 403 403 403 403 202 403 403 403 403 403 403 409
GET    /api/v1/machine-types                   401     200 200 200 200 200 200 200 403 200 200 403 403 409
GET    /api/v1/events                          401     200 200 200 200 200 200 200 403 200 200 403 403 409
GET    /api/v1/admin/disk                      401     403 403 403 403 403 200 403 403 403 403 403 403 409
POST   /api/v1/admin/collect                   401     403 403 403 403 403 200 403 403 403 403 403 403 409
GET    /api/v1/admin/doctor                    401     403 403 403 403 403 200 403 403 403 403 403 403 409
GET    /api/v1/admin/audit                     401     403 403 403 403 403 200 403 403 403 403 403 403 409
GET    /api/v1/tokens                          401     200 200 200 200 200 200 403 403 200 200 403 403 409
POST   /api/v1/tokens                          401     201 201 201 201 201 201 403 403 403 403 403 403 409
DELETE /api/v1/tokens/{new-token}              401     404 404 404 404 204 404 403 403 404 404 403 403 409
GET    /api/v1/projects                        401     200 200 200 200 200 200 200 403 200 200 403 403 409
POST   /api/v1/projects                        401     201 201 201 201 201 201 403 403 403 403 403 403 409
GET    /api/v1/projects/{project}              401     404 200 200 200 200 404 200 403 200 404 403 403 409
DELETE /api/v1/projects/{new-project}          401     404 403 403 202 202 404 403 403 404 404 403 403 409
GET    /api/v1/jobs                            401     200 200 200 200 200 200 200 403 200 200 403 403 409
POST   /api/v1/jobs                            401     404 404 404 404 201 404 403 403 404 404 403 403 409
GET    /api/v1/jobs/{running}                  401     404 200 200 200 200 404 200 403 200 404 200 403 409
PATCH  /api/v1/jobs/{done}                     401     404 403 200 200 200 404 403 403 200 404 403 403 409
POST   /api/v1/jobs/{done}/rerun               401     404 403 201 201 201 404 403 403 201 404 403 403 409
GET    /api/v1/jobs/{done}/attempts            401     404 200 200 200 200 404 200 403 200 404 403 403 409
PUT    /api/v1/jobs/{running}/progress         401     404 403 202 202 202 404 403 403 202 404 202 403 409
POST   /api/v1/jobs/{done}/stop                401     404 403 202 202 202 404 403 403 202 404 403 403 409
DELETE /api/v1/jobs/{new-job}                  401     404 403 403 202 202 404 403 403 202 404 403 403 409
GET    /api/v1/jobs/{done}/logs                401     404 200 200 200 200 404 200 403 200 404 403 403 409
GET    /api/v1/jobs/{done}/log                 401     404 200 200 200 200 404 200 403 200 404 403 403 409
GET    /api/v1/jobs/{done}/artifacts           401     404 200 200 200 200 404 200 403 200 404 403 403 409
GET    /api/v1/jobs/{done}/artifacts.zip       401     404 200 200 200 200 404 200 403 200 404 403 403 409
GET    /api/v1/jobs/{done}/artifacts/{file}    401     404 200 200 200 200 404 200 403 200 404 403 403 409
DELETE /api/v1/jobs/{new-job}/artifacts/{file} 401     404 403 204 204 204 404 403 403 204 404 403 403 409
POST   /api/v1/snapshots/missing               401     200 200 200 200 200 200 403 403 200 200 403 403 409
POST   /api/v1/blobs                           401     201 201 201 201 201 201 403 403 201 201 403 403 409
POST   /api/v1/snapshots                       401     409 409 409 409 201 409 403 403 409 409 403 403 409
POST   /api/v1/snapshots/git                   401     400 400 400 400 400 400 403 403 400 400 403 403 409
GET    /api/v1/snapshots/{snapshot}            401     404 404 404 404 200 404 200 403 404 404 403 403 409
GET    /api/v1/snapshots/{snapshot}/manifest   401     404 404 404 404 200 404 200 403 404 404 403 403 409
"""  # noqa: E501

#: What is sent, by the line's method and address. A text in braces is put in; ``None``: no body.
BODIES: dict[str, object] = {
    "POST /api/v1/admin/collect": {"dry_run": True},
    "POST /api/v1/tokens": {"name": "made", "scopes": ["read"]},
    "POST /api/v1/projects": {"name": "{fresh}"},
    "POST /api/v1/jobs": {
        "command": ["true"],
        "snapshot": "{snapshot}",
        "project_id": "{project}",
        "host": {"python": "/usr/bin/python3", "path": ["/usr/bin", "/bin"]},
    },
    "PATCH /api/v1/jobs/{done}": {"tags": ["{fresh}"]},
    "POST /api/v1/jobs/{done}/rerun": {"command": ["true"]},
    "PUT /api/v1/jobs/{running}/progress": {"fraction": 0.5},
    "POST /api/v1/snapshots/missing": {
        "entries": [{"kind": "file", "path": "a.txt", "size": 39, "digest": "{blob}"}]
    },
    "POST /api/v1/snapshots": {
        "entries": [{"kind": "file", "path": "a.txt", "size": 39, "digest": "{blob}"}]
    },
    # No repository is fetched from here: what is tested is who comes as far as the address.
    "POST /api/v1/snapshots/git": {"url": "ssh://nobody.invalid/x"},
}

#: Bodies that are bytes.
DATA = {"POST /api/v1/blobs": "pack"}

#: Fields of bodies and queries that name a thing, wherever they stand: each is tried with a thing of somebody
#: else's,
#: in ``test_matrix``. One that is not here fails the test.
FOREIGN = {
    ("POST", "/api/v1/jobs", "snapshot"),
    ("POST", "/api/v1/jobs", "project_id"),
    ("POST", "/api/v1/jobs/{job_id}/rerun", "project_id"),
    ("POST", "/api/v1/tokens", "project_id"),
    ("GET", "/api/v1/jobs", "project_id"),
}
